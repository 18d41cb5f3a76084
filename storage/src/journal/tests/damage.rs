use super::driver::{CLUSTER, Driver, SMALL, Step, contents, steps};
use crate::buffer::Damage;
use crate::journal::simulated::SimulatedDisk;
use crate::journal::{Replayed, file_name};
use piculet_quorum::ids::Nonce;
use proptest::prelude::*;

/// The file and the offset that a damage names.
fn place(damage: &Damage) -> (String, Option<u64>) {
    let (path, offset) = match damage {
        Damage::File { path, offset, .. } | Damage::Segment { path, offset, .. } => (path, Some(*offset)),
        Damage::Missing { path } | Damage::FailedBefore { path, .. } => (path, None),
        other => panic!("{other}"),
    };
    (path.file_name().unwrap().to_string_lossy().into_owned(), offset)
}

fn replay(disk: &SimulatedDisk) -> Replayed<SimulatedDisk> {
    Replayed::read(disk.clone(), SMALL, CLUSTER).unwrap()
}

fn files(disk: &SimulatedDisk) -> Vec<String> {
    let names = crate::journal::Disk::list(disk).unwrap();
    names.into_iter().filter(|name| name.starts_with("journal-")).collect()
}

fn filled(steps: &[Step], clean: bool) -> Driver {
    let mut driver = Driver::new(steps.len() as u64);
    for step in steps {
        driver.take(step).unwrap();
    }
    driver.flush().unwrap();
    driver.batch(0, &[30, 40], false);
    driver.flush().unwrap();
    if clean {
        driver.close().unwrap();
    }
    driver
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A bit that turns over anywhere is found, with its file and at or before it, or changes nothing.
    #[test]
    fn bit_rot_is_found_or_harmless(steps in steps(1..80), at in any::<u32>()) {
        let driver = filled(&steps, true);
        let names = files(&driver.disk);
        let name = &names[at as usize % names.len()];
        let bit = (at / 7) as usize % (driver.disk.bytes(name).unwrap().len() * 8);
        driver.disk.flip(name, bit);
        let replayed = replay(&driver.disk);
        match replayed.damage() {
            None => prop_assert_eq!(&contents(&replayed), driver.now()),
            Some(damage) => {
                let (file, offset) = place(damage);
                // The length of the file stands in its header, and may point beyond its end.
                let offset = if bit < 64 * 8 { 0 } else { offset.unwrap() };
                prop_assert_eq!(&file, name);
                prop_assert!(offset <= bit as u64 / 8, "{damage}: bit {bit}");
            }
        }
    }

    /// Without an end mark the last group of records looks like a torn end; nothing before it does.
    #[test]
    fn after_a_stop_that_was_not_clean_all_but_the_last_group_is_checked(
        steps in steps(1..80), at in any::<u32>(),
    ) {
        let driver = filled(&steps, false);
        let names = files(&driver.disk);
        let name = &names[at as usize % names.len()];
        let bit = (at / 7) as usize % (driver.disk.bytes(name).unwrap().len() * 8);
        driver.disk.flip(name, bit);
        let replayed = replay(&driver.disk);
        if replayed.damage().is_none() {
            let found = contents(&replayed);
            prop_assert!(driver.history[driver.synced_before..].contains(&found), "found {found:#?}");
        }
    }

    /// A file that is missing or shorter is found, and never taken for an end.
    #[test]
    fn missing_and_shortened_files_are_found(steps in steps(20..120), at in any::<u16>(), to in any::<u16>()) {
        let driver = filled(&steps, at % 2 == 0);
        let names = files(&driver.disk);
        let name = &names[at as usize / 2 % names.len()];
        let shorter = driver.disk.process_end();
        shorter.shorten(name, to as usize % shorter.bytes(name).unwrap().len());
        let damage = replay(&shorter).damage().cloned();
        prop_assert_eq!(damage.map(|damage| place(&damage).0), Some(name.clone()));

        driver.disk.lose(name);
        let replayed = replay(&driver.disk);
        match replayed.damage() {
            // The oldest may have been needed no more, but for the deletion that was to come.
            None => {
                prop_assert_eq!(name, &names[0]);
                prop_assert_eq!(&contents(&replayed), driver.now());
            }
            Some(damage) => {
                let next = names.iter().find(|other| *other > name).unwrap_or(name);
                let file = place(damage).0;
                prop_assert!(file == *name || file == *next || names.len() == 1, "{damage}");
            }
        }
    }
}

#[test]
fn damage_names_the_file_the_offset_and_what_is_wrong() {
    let driver = filled(&[Step::Fence { log: 1, epoch: 3 }, Step::Flush], true);
    let name = file_name(1);
    // The header of the file, its list, the fence, the manifest of log 0, then the batch.
    let batch = 64 + 48 + 48 + 128;
    driver.disk.flip(&name, (batch + 100) * 8);
    let damage = replay(&driver.disk).damage().unwrap().to_string();
    assert!(damage.contains(&format!("/simulated/{name} is damaged at byte {batch}: ")), "{damage}");
    assert!(damage.contains("its body has checksum"), "{damage}");
}

#[test]
fn records_that_contradict_each_other_are_damage() {
    let driver = filled(&[], true);
    let again = driver.disk.process_end();
    let other = Replayed::read(again.clone(), SMALL, Nonce(7)).unwrap();
    let damage = other.damage().unwrap().to_string();
    assert!(damage.contains("it is file 1 of cluster"), "{damage}");
    again.lose("health");
    assert!(matches!(replay(&again).damage(), Some(Damage::Missing { .. })));
    again.lose(&file_name(1));
    assert!(replay(&again).damage().is_some() && replay(&again).segments().len() == 0);
    assert!(replay(&SimulatedDisk::new(1)).damage().is_some(), "a directory without a journal");
}

#[test]
fn a_payload_that_looks_like_a_record_is_taken_for_none() {
    use crate::journal::Location;
    use crate::journal::parse::latest_synced;
    use crate::journal::record::{FILE_HEADER_BYTES, FileHeader, Gather, Record, Stamp};
    let header = FileHeader { cluster: CLUSTER, generation: 1, bytes: 4096, salt: 77 };
    let synced = Location { generation: 1, offset: 4000 };
    let records = |salt| {
        let mut gather = Gather::default();
        gather.put(Record::End, &Stamp { generation: 1, salt, synced });
        let mut file = vec![7; FILE_HEADER_BYTES + 104];
        gather.take().iter().for_each(|piece| file.extend_from_slice(piece));
        file.extend([7; 64]);
        file.into()
    };
    assert_eq!(latest_synced(&records(77), FILE_HEADER_BYTES, &header), synced);
    assert_eq!(latest_synced(&records(78), FILE_HEADER_BYTES, &header), Location::default());
}

#[test]
fn a_stray_file_never_leads_to_a_generation_that_no_record_can_name() {
    // The first two are none of ours; the others are read as the row's end, beyond a gap.
    for (stray, ours) in [(1 << 32, false), (u64::MAX, false), (0xffff_fffe, true), (0x7fff_ffff, true)] {
        let mut driver = Driver::new(12);
        driver.batch(0, &[100], false);
        driver.close().unwrap();
        crate::journal::Disk::create(&mut driver.disk, &file_name(stray), 4096).unwrap();
        for _ in 0..3 {
            let replayed = replay(&driver.disk);
            assert_eq!(replayed.damage().is_some(), ours, "{stray:x}: {:?}", replayed.damage());
            if !ours {
                driver.reopen(driver.disk.clone()).unwrap();
                driver.close().unwrap();
            }
        }
        if ours {
            replay(&driver.disk).discard().unwrap().close().unwrap();
            assert_eq!(replay(&driver.disk).damage(), None, "{stray:x}");
            replay(&driver.disk).resume().unwrap().close().unwrap();
            assert_eq!(files(&driver.disk).len(), 1, "{:?}", files(&driver.disk));
        }
    }
}
