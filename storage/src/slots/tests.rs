use super::*;
use crate::arena::ArenaOptions;
use crate::fixture::PLACE;
use crate::mapping::{allocate, hook};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const LAYOUT: Layout = Layout { chunk_bytes: 1024, chunks: 4, slots: 64 };

const EXTENT: Extent = Extent {
    head: Boundary {
        index: Index(40),
        at: 100,
        before: BatchEnd { chain: Chain(0xc4a1), last_timestamp: Timestamp(1000) },
    },
    tail_at: 3000,
    repaired_from: Some(Index(45)),
};

fn pool(layout: &Layout) -> (File, Pool) {
    let file = tempfile::tempfile().unwrap();
    allocate(&file, layout.file_bytes()).unwrap();
    let pool = Pool::new(&file, layout.chunks_at(), layout.chunk_bytes, layout.chunks, None).unwrap();
    (file, pool)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_header_has_a_fixed_form_and_is_read_back() {
    let header = LAYOUT.encode();
    assert_eq!(hex(&header), "504943554c45544101000000400000000004000000000000040000004862410f");
    assert_eq!(Layout::decode(&header, LAYOUT.file_bytes()), Ok(LAYOUT));
    Layout::decode(&header, LAYOUT.file_bytes() + 1).expect_err("a file of another length");
    for bit in 0..HEADER_BYTES * 8 {
        let mut damaged = header;
        damaged[bit / 8] ^= 1 << (bit % 8);
        Layout::decode(&damaged, LAYOUT.file_bytes()).expect_err("a flipped bit");
    }
    let mut later = header;
    later[8] = 2;
    let crc = crc32c::crc32c(&later[..28]);
    later[28..].copy_from_slice(&crc.to_le_bytes());
    let error = Layout::decode(&later, LAYOUT.file_bytes()).unwrap_err();
    assert!(error.contains("format 2"), "{error}");
}

#[test]
fn parts_of_the_file_do_not_overlap() {
    assert_eq!((LAYOUT.slot_at(0), LAYOUT.slot_at(1)), (4096, 4288));
    assert_eq!((LAYOUT.owner_at(0), LAYOUT.owner_at(4)), (16384, 16448));
    assert_eq!((LAYOUT.chunks_at(), LAYOUT.file_bytes()), (20480, 24576));
    let default = Layout::new(&ArenaOptions::default()).unwrap();
    assert_eq!((default.chunks, default.slots), (4096, 32768));
    let small = Layout::new(&ArenaOptions { bytes: 64 << 10, chunk_bytes: 1024 }).unwrap();
    assert_eq!((small.chunks, small.slots), (64, 64));
}

#[test]
fn a_slot_and_an_owner_have_a_fixed_form() {
    let (file, pool) = pool(&LAYOUT);
    let mut slot = Slot::write(&pool, &LAYOUT, 1, 9, &PLACE, &EXTENT);
    set_owner(&pool, &LAYOUT, 2, 9, 5);
    let mut bytes = [0; SLOT_BYTES];
    file.read_exact_at(&mut bytes, LAYOUT.slot_at(1) as u64).unwrap();
    assert_eq!(hex(&bytes[..16]), "09000000000000000000000000000000");
    assert_eq!(hex(&bytes[16..40]), "efbe00000000000007000000000000000300000000000000");
    assert_eq!(hex(&bytes[40..COPY_AT]), "4136e1eb0000000000000000000000000000000000000000");
    let copy = concat!(
        "0000000033ff58bd",
        "28000000000000006400000000000000",
        "e803000000000000a1c40000000000000000000000000000",
        "2d00000000000000abceb80b00000000",
    );
    assert_eq!(hex(&bytes[COPY_AT..][..COPY_BYTES]), copy);
    let mut bytes = [0; OWNER_BYTES];
    file.read_exact_at(&mut bytes, LAYOUT.owner_at(2) as u64).unwrap();
    assert_eq!(hex(&bytes), "09000000000000000500000000000000");
    assert_eq!((owner(&pool, &LAYOUT, 2), owner(&pool, &LAYOUT, 1)), (Some((9, 5)), None));

    let (_, place, extent) = Slot::read(&pool, &LAYOUT, 1).unwrap().unwrap();
    assert_eq!((place, extent), (PLACE, EXTENT));
    slot.publish(&pool, &LAYOUT, 3100);
    assert_eq!(Slot::read(&pool, &LAYOUT, 1).unwrap().unwrap().2, Extent { tail_at: 3100, ..EXTENT });
    let never = Extent { tail_at: 200, repaired_from: None, ..EXTENT };
    for _ in 0..3 {
        slot.update(&pool, &LAYOUT, &never);
        assert_eq!(Slot::read(&pool, &LAYOUT, 1).unwrap().unwrap().2, never);
    }
    assert_eq!(slot.clear(&pool, &LAYOUT), 1);
    assert!(Slot::read(&pool, &LAYOUT, 1).unwrap().is_none());
}

#[test]
fn every_flipped_bit_that_counts_is_found() {
    // Those with one bit are one flip away from 0.
    for serial in [1, 2, 4, 9, 1 << 40] {
        let (_file, pool) = pool(&LAYOUT);
        let slot = Slot::write(&pool, &LAYOUT, 1, serial, &PLACE, &EXTENT);
        slot.publish(&pool, &LAYOUT, 4000);
        let at = LAYOUT.slot_at(1);
        let idle = (48..COPY_AT).chain(COPY_AT + COPY_BYTES..SLOT_BYTES);
        let idle: Vec<usize> = idle.collect();
        for bit in 0..SLOT_BYTES * 8 {
            let word = at + bit / 64 * 8;
            let value = pool.load(word);
            pool.store(word, value ^ 1 << (bit % 64));
            let read = Slot::read(&pool, &LAYOUT, 1);
            if idle.contains(&(bit / 64 * 8)) {
                read.unwrap().expect("what does not count is not looked at");
            } else {
                read.expect_err("a flipped bit");
            }
            pool.store(word, value);
        }
    }
}

#[test]
fn a_slot_is_free_until_all_of_it_is_written() {
    let (file, pool) = pool(&LAYOUT);
    let copy = file.try_clone().unwrap();
    let mut words = 0;
    for serial in [1, 2] {
        // What a process leaves that is killed just before any of the stores.
        let (file, stores) = (copy.try_clone().unwrap(), Arc::new(AtomicU32::new(0)));
        let (layout, counter) = (LAYOUT, stores.clone());
        let look = move || {
            let pool = Pool::new(&file, layout.chunks_at(), layout.chunk_bytes, layout.chunks, None).unwrap();
            assert!(Slot::read(&pool, &layout, 3).unwrap().is_none(), "it is free");
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let slot = hook::with(look, || Slot::write(&pool, &LAYOUT, 3, serial, &PLACE, &EXTENT));
        words += stores.load(Ordering::Relaxed);
        assert_eq!(Slot::read(&pool, &LAYOUT, 3).unwrap().unwrap().2, EXTENT);
        slot.clear(&pool, &LAYOUT);
    }
    assert_eq!(words, 2 * 15, "every store was looked at");
}

#[test]
fn the_sequence_number_starts_over() {
    let (_file, pool) = pool(&LAYOUT);
    let mut slot = Slot::write(&pool, &LAYOUT, 0, 1, &PLACE, &EXTENT);
    slot.sequence = u32::MAX;
    slot.update(&pool, &LAYOUT, &EXTENT);
    assert_eq!(Slot::read(&pool, &LAYOUT, 0).unwrap().unwrap().2, EXTENT);
}
