//! What is read from an image is what is in the folder that it was made of.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;

use common::{Reader, bytes, fill, make, make_and_change, make_indexed, now, sparse};
use faultline_ext4::{Error, InodeKind, Unsupported};

/// Compares a directory of the image, and all below, with a folder; says how many names there were.
fn compare(reader: &Reader, folder: &Path, path: &str) -> usize {
    let here = folder.join(path.trim_start_matches('/'));
    let directory = reader.inode(path).unwrap();
    let mut names: BTreeSet<Vec<u8>> = reader
        .list(&directory)
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert!(names.remove(&b"."[..]) && names.remove(&b".."[..]));
    names.remove(&b"lost+found"[..]);
    let mut count = 0;
    for entry in fs::read_dir(&here).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(names.remove(name.as_bytes()), "{name} is missing in {path}");
        count += 1;
        let below = format!("{path}/{name}");
        let inode = reader.inode(&below).unwrap();
        let metadata = entry.metadata().unwrap();
        assert_eq!(u32::from(inode.permissions), metadata.permissions().mode() & 0o7777);
        assert_eq!(inode.modified, metadata.mtime(), "{below}");
        match inode.kind {
            InodeKind::Directory => {
                assert!(metadata.is_dir());
                count += compare(reader, folder, &below);
            }
            InodeKind::Link => {
                let target = now(reader.volume.target(&inode)).unwrap();
                assert_eq!(
                    fs::read_link(entry.path()).unwrap().to_str().unwrap().as_bytes(),
                    &target[..]
                );
            }
            InodeKind::File => {
                assert_eq!(inode.size, metadata.len());
                assert!(
                    reader.content(&inode).unwrap() == fs::read(entry.path()).unwrap(),
                    "{below} differs"
                );
            }
            other => panic!("{below} is {other:?}"),
        }
    }
    assert!(names.is_empty(), "only in the image: {names:?}");
    count
}

#[test]
fn every_kind_of_volume_reads_as_its_folder_does() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    for options in [
        &["-b", "1024"][..],
        &["-b", "2048"],
        &["-b", "4096"],
        &["-b", "1024", "-O", "^extents,^64bit"],
        &["-b", "4096", "-O", "^extents,^64bit"],
        &["-b", "1024", "-O", "^dir_index,^metadata_csum"],
        &["-b", "1024", "-t", "ext2"],
        &["-b", "1024", "-t", "ext3"],
        &["-b", "2048", "-I", "128", "-O", "^resize_inode"],
        &["-b", "1024", "-r", "0"],
        &["-b", "4096", "-O", "bigalloc", "-C", "16384"],
    ] {
        let image = make(folder.path(), 48, options);
        let reader = Reader::open(&image).unwrap();
        assert_eq!(compare(&reader, folder.path(), ""), 675, "{options:?}");
    }
}

#[test]
fn a_large_directory_is_looked_up_by_its_index() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("large")).unwrap();
    let name = |number: usize| format!("name {number} of four thousand, \u{e9}\u{1f600}");
    let first = folder.path().join("large").join(name(0));
    fs::write(&first, []).unwrap();
    for number in 1..4_000 {
        fs::hard_link(&first, folder.path().join("large").join(name(number))).unwrap();
    }
    for (options, has_index) in [
        (&["-b", "1024"][..], true),
        (&["-b", "4096"], true),
        (&["-b", "1024", "-O", "^dir_index"], false),
    ] {
        let image = make_indexed(folder.path(), 16, options);
        let reader = Reader::open(&image).unwrap();
        let directory = reader.inode("large").unwrap();
        assert_eq!(reader.list(&directory).unwrap().len(), 4_002);
        let extents = now(reader.volume.extents(&directory)).unwrap();
        let blocks = directory.size / reader.volume.superblock().block_size();
        let look_up = |number| {
            let before = image.reads.load(Ordering::Relaxed);
            let found = now(reader.volume.find(&directory, &extents, name(number).as_bytes()));
            (found, image.reads.load(Ordering::Relaxed) - before)
        };
        for number in (0..4_000).step_by(7) {
            let (found, reads) = look_up(number);
            assert!(found.is_ok(), "{number}");
            assert!(reads <= if has_index { 4 } else { blocks }, "{reads} reads");
        }
        assert_eq!(look_up(4_000).0, Err(Error::NotFound));
        assert!(!has_index || look_up(4_001).1 <= 4);
    }
}

#[test]
fn a_listing_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let image = make(folder.path(), 48, &["-b", "1024"]);
    let reader = Reader::open(&image).unwrap();
    let directory = reader.inode("many").unwrap();
    let extents = now(reader.volume.extents(&directory)).unwrap();
    let all = reader.list(&directory).unwrap();
    let (mut names, mut from) = (Vec::new(), 0);
    loop {
        // Three names at a time, as a small buffer takes them.
        let mut taken = 0;
        let next = now(reader.volume.list(&directory, &extents, from, |entry| {
            taken += 1;
            if taken <= 3 {
                names.push((entry.name.to_vec(), entry.inode));
                from = entry.offset + 1;
            }
            taken <= 3
        }))
        .unwrap();
        match next {
            Some(block) => from = block,
            None if taken > 3 => {}
            None => break,
        }
    }
    assert_eq!(names, all);
}

#[test]
fn long_files_are_read_at_their_ends() {
    const MIB: u64 = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let places = [(0, 10), (70 * MIB + 5, 2000), (1024 * MIB, 4096), (3072 * MIB - 7, 7)];
    sparse(&folder.path().join("long"), &places);
    for options in [
        &["-b", "1024"][..],
        &["-b", "4096"],
        &["-b", "1024", "-t", "ext2"],
        &["-b", "4096", "-t", "ext2"],
    ] {
        let image = make(folder.path(), 16, options);
        let reader = Reader::open(&image).unwrap();
        let inode = reader.inode("long").unwrap();
        assert_eq!(inode.size, 3072 * MIB);
        let extents = now(reader.volume.extents(&inode)).unwrap();
        for (at, length) in places {
            assert_eq!(
                reader.read(&extents, at, at + length as u64),
                bytes(at, length),
                "{options:?}"
            );
        }
        assert_eq!(reader.read(&extents, 2000 * MIB, 2001 * MIB), vec![0; MIB as usize]);
        assert_eq!(extents.next_data(100 * MIB), Some(1024 * MIB));
        assert_eq!(extents.next_hole(1024 * MIB), 1024 * MIB + 4096);
        assert_eq!(extents.next_data(3072 * MIB), None);
    }
}

#[test]
fn a_file_in_many_pieces_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..2000 {
        fs::write(folder.path().join(format!("small{number}")), bytes(number, 1024)).unwrap();
    }
    let large = tempfile::NamedTempFile::new().unwrap();
    let content = bytes(1, 1_500_000);
    fs::write(large.path(), &content).unwrap();
    // Every second of the small files makes room, and the volume is so full that the large one needs it.
    let mut changes: Vec<_> = (0..2000).step_by(2).map(|number| format!("rm small{number}")).collect();
    changes.push(format!("write {} large", large.path().display()));
    for options in [
        &["-b", "1024", "-N", "2100", "-O", "^has_journal"][..],
        &["-b", "1024", "-N", "2100", "-t", "ext2"],
    ] {
        let image = make_and_change(folder.path(), 4, options, &changes);
        let reader = Reader::open(&image).unwrap();
        let inode = reader.inode("large").unwrap();
        let extents = now(reader.volume.extents(&inode)).unwrap();
        assert!(extents.len() > 500, "{} extents", extents.len());
        assert!(reader.content(&inode).unwrap() == content, "{options:?}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |options: &[&str], change: fn(&mut Vec<u8>)| {
        let mut image = make(folder.path(), 8, options);
        change(&mut image.bytes);
        Reader::open(&image).err()
    };
    let unsupported = |what| Some(Error::Unsupported(what));
    let inline = refusal(&["-O", "inline_data", "-I", "256"], |_| {});
    assert_eq!(inline, unsupported(Unsupported::Features(0x8000)));
    let journal = refusal(&[], |bytes| bytes[1024 + 0x60] |= 4);
    assert_eq!(journal, unsupported(Unsupported::Recovery));
    let blocks = refusal(&[], |bytes| bytes[1024 + 0x18] = 6);
    assert_eq!(blocks, unsupported(Unsupported::BlockSize(65536)));
    assert_eq!(refusal(&[], |bytes| bytes[1024 + 0x38] = 0), Some(Error::NotExt4));
    assert!(matches!(
        refusal(&[], |bytes| bytes.truncate(1500)),
        Some(Error::Read(_))
    ));
}
