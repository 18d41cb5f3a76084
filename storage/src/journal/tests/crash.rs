use super::driver::{Driver, Step, steps};
use crate::journal::JournalError;
use proptest::prelude::*;

/// A small generator of numbers, for what a power cut leaves.
fn chooser(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    }
}

fn run(driver: &mut Driver, steps: &[Step]) -> Result<(), JournalError> {
    steps.iter().try_for_each(|step| driver.take(step))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever was announced survives power cuts at any operation, during starts too, with any
    /// part of what was not synced; and what is found is always a state that there was.
    #[test]
    fn what_was_announced_survives_every_power_cut(
        rounds in prop::collection::vec((steps(1..60), 1..120_u64, any::<u64>(), 0..12_u64), 1..4),
        seed in any::<u64>(),
    ) {
        let mut driver = Driver::new(seed);
        for (steps, power_off, choices, again) in rounds {
            driver.disk.power_off_after(power_off);
            // It may go off at any step, or not at all.
            let _: Result<(), JournalError> = run(&mut driver, &steps);
            let left = driver.disk.power_cut(chooser(choices));
            // And once more while the next start is under way.
            left.power_off_after(again + 1);
            let left = match driver.reopen(left.clone()) {
                Ok(()) => driver.disk.power_cut(chooser(!choices)),
                Err(_) => left.power_cut(chooser(!choices)),
            };
            driver.reopen(left).unwrap();
        }
    }

    /// The same when the process ends first, and the power goes after the next start.
    #[test]
    fn what_a_process_left_unsynced_and_the_next_took_up_survives(
        steps in steps(1..60), more in steps(0..6), end in 1..80_u64, choices in any::<u64>(),
    ) {
        let mut driver = Driver::new(choices);
        driver.disk.power_off_after(end);
        // It may end at any step, or not at all.
        let _: Result<(), JournalError> = run(&mut driver, &steps);
        let left = driver.disk.process_end();
        driver.reopen(left).unwrap();
        run(&mut driver, &more).unwrap();
        let left = driver.disk.power_cut(chooser(choices));
        driver.reopen(left).unwrap();
    }

    /// The end of a process loses nothing that was written, announced or not.
    #[test]
    fn the_end_of_a_process_loses_nothing_that_was_written(steps in steps(1..120), seed in any::<u64>()) {
        let mut driver = Driver::new(seed);
        run(&mut driver, &steps).unwrap();
        driver.flush().unwrap();
        let expected = driver.now().clone();
        let left = driver.disk.process_end();
        driver.reopen(left).unwrap();
        prop_assert_eq!(driver.now(), &expected);
    }
}

#[test]
fn a_process_and_then_the_power_may_end_at_any_operation_of_a_new_file() {
    for operations in 1..40 {
        let mut driver = Driver::new(operations);
        driver.batch(0, &[1000, 1000], false);
        driver.flush().unwrap();
        driver.disk.power_off_after(operations);
        for _ in 0..4 {
            driver.batch(0, &[900], false);
            if driver.flush().is_err() {
                break;
            }
        }
        for left in
            [driver.disk.process_end(), driver.disk.power_cut(|_| 0), driver.disk.power_cut(|n| n - 1)]
        {
            let mut other = Driver::new(0);
            (other.history, other.synced) = (driver.history.clone(), driver.synced);
            other.reopen(left).unwrap();
            other.batch(0, &[5], false);
            other.flush().unwrap();
            let again = other.disk.power_cut(|_| 0);
            other.reopen(again).unwrap();
        }
    }
}
