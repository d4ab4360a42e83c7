//! Images that are cut off, mangled or made to do harm: everything ends, with bytes or with an error.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use common::{BeyondEnd, Image, Read, Reader, fill, make, now, sparse};
use faultline_ext4::{Error, Inode, InodeKind, ROOT, Structure};

const MANGLED: u64 = 4000;

/// What a walk through a whole volume met.
#[derive(Default, Debug)]
struct Walk {
    files: usize,
    errors: usize,
}

/// Reads everything that can be reached from the root, each inode once.
fn walk(image: &Image) -> Read<Walk> {
    let reader = Reader::open(image)?;
    let mut walk = Walk::default();
    let mut seen = BTreeSet::from([ROOT]);
    let mut left = vec![ROOT];
    while let Some(number) = left.pop() {
        walk.files += 1;
        let result = look(&reader, number);
        match result {
            Ok(below) => left.extend(below.into_iter().filter(|&number| seen.insert(number))),
            Err(_) => walk.errors += 1,
        }
    }
    Ok(walk)
}

/// Reads one inode as far as it goes; says what is below it.
fn look(reader: &Reader, number: u32) -> Read<Vec<u32>> {
    let inode: Inode = now(reader.volume.inode(number))?;
    match inode.kind {
        InodeKind::Directory => {
            let names = reader.list(&inode)?;
            let extents = now(reader.volume.extents(&inode))?;
            for (name, _) in names.iter().take(3) {
                let _ = now(reader.volume.find(&inode, &extents, name));
            }
            let _ = now(reader.volume.find(&inode, &extents, b"no such name"));
            Ok(names.into_iter().map(|(_, number)| number).collect())
        }
        InodeKind::Link => now(reader.volume.target(&inode)).map(|_| Vec::new()),
        _ => {
            let extents = now(reader.volume.extents(&inode))?;
            let device = reader.volume.superblock().size();
            let mut at = 0;
            while at < inode.size {
                let piece = extents.piece(at);
                assert!(piece.length > 0);
                assert!(piece.at.is_none_or(|place| place + piece.length <= device));
                at += piece.length;
            }
            Ok(Vec::new())
        }
    }
}

/// Blocks that hold metadata are where mangling does something: those whose bytes a whole walk reads.
fn mangle(image: &mut Image, random: &mut fastrand::Rng, metadata: &[u64]) {
    for _ in 0..random.u32(1..20) {
        let block = metadata[random.usize(..metadata.len())];
        let at = (block + random.u64(..1024)) as usize;
        let value = match random.u8(..4) {
            0 => 0,
            1 => 0xff,
            2 => 1 << random.u8(..8),
            _ => random.u8(..),
        };
        // A field is more often hit by a change of several bytes that follow each other.
        for byte in image.bytes[at..].iter_mut().take(random.usize(1..5)) {
            *byte = value;
        }
    }
}

/// Addresses of the kibibytes that are not all the same byte, up to the bytes of files.
fn metadata(image: &Image) -> Vec<u64> {
    let blocks = image.bytes.chunks(1024).take(8 * 1024).enumerate();
    let is_used = |bytes: &[u8]| bytes.iter().any(|&byte| byte != bytes[0]);
    blocks
        .filter(|(_, bytes)| is_used(bytes))
        .map(|(index, _)| index as u64 * 1024)
        .collect()
}

fn small(folder: &Path) {
    fs::create_dir(folder.join("many")).unwrap();
    for number in 0..200 {
        fs::write(folder.join(format!("many/name {number}")), []).unwrap();
    }
    let holes: Vec<_> = (0..600).map(|number| (number * 8192, 1)).collect();
    sparse(&folder.join("holes"), &holes);
    sparse(&folder.join("far"), &[(0, 5), (70 << 20, 5)]);
    std::os::unix::fs::symlink("x".repeat(90), folder.join("link")).unwrap();
    std::os::unix::fs::symlink("short", folder.join("short")).unwrap();
}

#[test]
fn mangled_images_end_in_bytes_or_errors() {
    let folder = tempfile::tempdir().unwrap();
    small(folder.path());
    for options in [
        &["-b", "1024", "-O", "^has_journal"][..],
        &["-b", "1024", "-t", "ext2"],
        &["-b", "4096"],
    ] {
        let whole = common::make_indexed(folder.path(), 8, options);
        let sound = walk(&whole).unwrap();
        assert_eq!((sound.errors, sound.files), (0, 207), "{options:?}");
        let places = metadata(&whole);
        let reads = whole.reads.load(Ordering::Relaxed);
        let (mut opened, mut errors) = (0, 0);
        for seed in 0..MANGLED {
            let mut image = Image::new(whole.bytes.clone());
            mangle(&mut image, &mut fastrand::Rng::with_seed(seed), &places);
            if let Ok(walk) = walk(&image) {
                opened += 1;
                errors += walk.errors;
            }
            assert!(
                image.reads.load(Ordering::Relaxed) < 20 * reads,
                "seed {seed} reads too much"
            );
        }
        // The mangling does mangle, and not only the superblock.
        assert!(opened > MANGLED / 4 && errors > 100, "{opened} opened, {errors} errors");
    }
}

#[test]
fn images_that_are_cut_off_end_in_bytes_or_errors() {
    let folder = tempfile::tempdir().unwrap();
    small(folder.path());
    let whole = make(folder.path(), 8, &["-b", "1024"]);
    let mut refused = 0;
    for length in (0..whole.bytes.len()).step_by(17 * 1024 + 300) {
        let image = Image::new(whole.bytes[..length].to_vec());
        match walk(&image) {
            Ok(_) => {}
            Err(Error::Read(BeyondEnd(_))) => refused += 1,
            Err(other) => panic!("{length} bytes: {other:?}"),
        }
    }
    assert_eq!(refused, 1);
}

/// Sets the field of 4 bytes at `at`.
fn put(image: &mut Image, at: usize, value: u32) {
    image.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Where the inode that a name of the root names is in the image.
fn place_of(image: &Image, name: &str) -> usize {
    let reader = Reader::open(image).unwrap();
    let number = reader.inode(name).unwrap().number;
    // One group in an image this small: its descriptor follows the superblock.
    let table = u32::from_le_bytes(image.bytes[2048 + 8..][..4].try_into().unwrap());
    let size = u16::from_le_bytes(image.bytes[1024 + 0x58..][..2].try_into().unwrap());
    table as usize * 1024 + (number as usize - 1) * usize::from(size)
}

#[test]
fn a_block_map_that_leads_into_itself_ends() {
    let folder = tempfile::tempdir().unwrap();
    sparse(&folder.path().join("file"), &[(0, 4096), (70 << 20, 4096)]);
    let mut image = make(folder.path(), 8, &["-b", "1024", "-t", "ext2"]);
    let inode = place_of(&image, "file");
    let blocks = image.bytes.len() as u64 / 1024;
    let triple = u32::from_le_bytes(image.bytes[inode + 0x28 + 14 * 4..][..4].try_into().unwrap());
    assert_ne!(triple, 0);
    // All of its numbers name itself, and the file is as long as the map can say.
    for index in 0..256 {
        put(&mut image, triple as usize * 1024 + index * 4, triple);
    }
    put(&mut image, inode + 0x4, u32::MAX);
    put(&mut image, inode + 0x6c, 2);
    let reader = Reader::open(&image).unwrap();
    let file = reader.inode("file").unwrap();
    let error = now(reader.volume.extents(&file)).unwrap_err();
    let structure = Structure::BlockMap;
    let number = u64::from(file.number);
    assert_eq!(error, Error::Corrupt { structure, number });
    assert!(image.reads.load(Ordering::Relaxed) < 4 * blocks);
}

#[test]
fn an_extent_tree_that_leads_into_itself_ends() {
    let folder = tempfile::tempdir().unwrap();
    let holes: Vec<_> = (0..600).map(|number| (number * 8192, 1)).collect();
    sparse(&folder.path().join("file"), &holes);
    let mut image = make(folder.path(), 8, &["-b", "1024", "-O", "^metadata_csum"]);
    let inode = place_of(&image, "file");
    let node = u32::from_le_bytes(image.bytes[inode + 0x28 + 16..][..4].try_into().unwrap()) as usize * 1024;
    let (root_depth, depth) = (image.bytes[inode + 0x28 + 6], image.bytes[node + 6]);
    assert!(root_depth > 0 && depth == root_depth - 1);
    // The second entry of the root names the node of the first, which speaks of other blocks.
    let first: [u8; 12] = image.bytes[inode + 0x28 + 12..][..12].try_into().unwrap();
    image.bytes[inode + 0x28 + 2] = 2;
    image.bytes[inode + 0x28 + 24..][..12].copy_from_slice(&first);
    put(&mut image, inode + 0x28 + 24, 0x7fff_0000);
    let reader = Reader::open(&image).unwrap();
    let file = reader.inode("file").unwrap();
    let error = now(reader.volume.extents(&file)).unwrap_err();
    let number = u64::from(file.number);
    let structure = Structure::ExtentTree;
    assert_eq!(error, Error::Corrupt { structure, number });
}

/// Says of all runs of the leaves below a node of an extent tree that they were not written: they map nothing.
fn unwrite(image: &mut Image, node: usize) {
    let [count, depth] = [2, 6].map(|at| u16::from_le_bytes(image.bytes[node + at..][..2].try_into().unwrap()));
    for entry in (0..usize::from(count)).map(|index| node + 12 + index * 12) {
        if depth == 0 {
            image.bytes[entry + 5] |= 0x80;
        } else {
            let below = u32::from_le_bytes(image.bytes[entry + 4..][..4].try_into().unwrap());
            unwrite(image, below as usize * 1024);
        }
    }
}

#[test]
fn a_node_that_maps_nothing_is_not_visited_twice() {
    // With runs that map nothing only the ranges of the nodes tell that one is visited again: those of leaves, then those
    // of inner nodes.
    for (runs, expected_depth) in [(50, 1), (600, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let holes: Vec<_> = (0..runs).map(|number| (number * 8192, 1)).collect();
        sparse(&folder.path().join("file"), &holes);
        let mut image = make(folder.path(), 8, &["-b", "1024", "-O", "^metadata_csum"]);
        let root = place_of(&image, "file") + 0x28;
        assert_eq!(image.bytes[root + 6], expected_depth);
        unwrite(&mut image, root);
        let file = Reader::open(&image).unwrap().inode("file").unwrap();
        let extents =
            |image: &Image| now(Reader::open(image).unwrap().volume.extents(&file)).map(|extents| extents.len());
        assert_eq!(extents(&image), Ok(0));
        let first: [u8; 12] = image.bytes[root + 12..][..12].try_into().unwrap();
        let last = root + 12 * usize::from(image.bytes[root + 2]);
        image.bytes[root + 2] += 1;
        image.bytes[last + 12..][..12].copy_from_slice(&first);
        put(&mut image, last + 12, 0x7fff_0000);
        let reader = Reader::open(&image).unwrap();
        let inode = reader.inode("file").unwrap();
        let number = u64::from(file.number);
        let structure = Structure::ExtentTree;
        assert_eq!(
            now(reader.volume.extents(&inode)).unwrap_err(),
            Error::Corrupt { structure, number }
        );
    }
}

#[test]
fn a_file_has_no_more_blocks_than_the_volume() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), [1; 3000]).unwrap();
    let mut image = make(folder.path(), 8, &["-b", "1024", "-O", "^metadata_csum"]);
    let root = place_of(&image, "file") + 0x28;
    let extents = |image: &Image| {
        let reader = Reader::open(image).unwrap();
        let inode = reader.inode("file").unwrap();
        now(reader.volume.extents(&inode)).map(|extents| extents.len())
    };
    // The same 4,000 blocks, again and again: 8,192 are there.
    for count in 1..=4 {
        image.bytes[root + 2] = count as u8;
        let entry = root + 12 * count;
        put(&mut image, entry, (count as u32 - 1) * 4000);
        put(&mut image, entry + 4, 4000);
        put(&mut image, entry + 8, 100);
        assert_eq!(extents(&image).is_ok(), count <= 2, "{count}");
    }
}

#[test]
fn a_block_map_of_empty_maps_is_not_walked_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    sparse(&folder.path().join("file"), &[(0, 4096), (70 << 20, 4096)]);
    let mut image = make(folder.path(), 8, &["-b", "1024", "-t", "ext2"]);
    let inode = place_of(&image, "file");
    let blocks = image.bytes.len() as u64 / 1024;
    let place = |image: &Image, at: usize| u32::from_le_bytes(image.bytes[at..][..4].try_into().unwrap());
    let triple = place(&image, inode + 0x28 + 14 * 4);
    let below = place(&image, triple as usize * 1024);
    // Two levels that lead to one empty map.
    let empty = image
        .bytes
        .chunks(1024)
        .rposition(|bytes| bytes.iter().all(|&byte| byte == 0));
    for index in 0..256 {
        put(&mut image, triple as usize * 1024 + index * 4, below);
        put(&mut image, below as usize * 1024 + index * 4, empty.unwrap() as u32);
    }
    put(&mut image, inode + 0x4, u32::MAX);
    put(&mut image, inode + 0x6c, 2);
    let reader = Reader::open(&image).unwrap();
    let file = reader.inode("file").unwrap();
    assert!(now(reader.volume.extents(&file)).is_err());
    assert!(image.reads.load(Ordering::Relaxed) < 4 * blocks);
}

#[test]
fn a_directory_that_is_its_own_child_is_found_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("inner")).unwrap();
    let mut image = make(folder.path(), 8, &["-b", "1024", "-O", "^metadata_csum"]);
    let (root, names) = {
        let reader = Reader::open(&image).unwrap();
        let root = reader.inode("").unwrap();
        let extents = now(reader.volume.extents(&root)).unwrap();
        (root.number, extents.piece(0).at.unwrap() as usize)
    };
    let block = &image.bytes[names..names + 1024];
    let at = block.windows(5).position(|bytes| bytes == b"inner").unwrap();
    put(&mut image, names + at - 8, root);
    let reader = Reader::open(&image).unwrap();
    assert_eq!(reader.inode("inner/inner/inner").unwrap().number, root);
    assert_eq!(walk(&image).unwrap().errors, 0);
}

#[test]
fn a_directory_that_claims_to_be_huge_is_as_long_as_its_blocks() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("inner")).unwrap();
    let mut image = make(folder.path(), 8, &["-b", "1024", "-O", "^metadata_csum"]);
    let inode = place_of(&image, "inner");
    put(&mut image, inode + 0x6c, 0x3ff);
    let reader = Reader::open(&image).unwrap();
    let inner = reader.inode("inner").unwrap();
    assert_eq!(inner.size, (0x3ff << 32) + 1024);
    image.reads.store(0, Ordering::Relaxed);
    assert_eq!(reader.list(&inner).unwrap().len(), 2);
    let extents = now(reader.volume.extents(&inner)).unwrap();
    assert_eq!(now(reader.volume.find(&inner, &extents, b"x")), Err(Error::NotFound));
    assert!(image.reads.load(Ordering::Relaxed) < 10);
}

#[test]
fn inodes_that_the_volume_keeps_for_itself_are_not_to_be_had() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let image = make(folder.path(), 48, &[]);
    let reader = Reader::open(&image).unwrap();
    for number in [0, 1, 3, 7, 8, 10, reader.volume.superblock().inodes + 1, u32::MAX] {
        let number = (now(reader.volume.inode(number)).unwrap_err(), number);
        let structure = Structure::Inode;
        let expected = u64::from(number.1);
        assert_eq!(
            number.0,
            Error::Corrupt {
                structure,
                number: expected
            }
        );
    }
}
