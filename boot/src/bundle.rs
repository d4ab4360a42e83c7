//! Members of the cpio archive that arrives as the loader's module.

/// The data of the regular file `name`, or `None` if the archive has no such member.
///
/// A member's name may be padded with NULs, which the packer uses to align the data.
pub fn find<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    cpio_reader::iter_files(archive)
        .find(|entry| entry.name().trim_end_matches('\0') == name)
        .map(|entry| entry.file())
}

#[cfg(test)]
mod tests {
    use super::find;

    fn member(name: &str, data: &[u8]) -> Vec<u8> {
        let fields = [1, 0o100644, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0];
        let mut out = b"070701".to_vec();
        fields
            .iter()
            .for_each(|field| out.extend(format!("{field:08x}").bytes()));
        out.extend(name.bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(data);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn a_member_is_found_by_its_name() {
        let archive = [
            member("boot/kernel", b"elf"),
            member("boot/config", b"a=b"),
            member("TRAILER!!!", b""),
        ]
        .concat();
        assert_eq!(find(&archive, "boot/kernel"), Some(&b"elf"[..]));
        assert_eq!(find(&archive, "boot/config"), Some(&b"a=b"[..]));
        assert_eq!(find(&archive, "boot"), None);
    }

    #[test]
    fn a_padded_name_is_the_same_name() {
        let archive = [member("boot/kernel\0\0\0\0\0", b"elf"), member("TRAILER!!!", b"")].concat();
        assert_eq!(find(&archive, "boot/kernel"), Some(&b"elf"[..]));
    }

    #[test]
    fn what_is_no_archive_has_no_members() {
        assert_eq!(find(b"", "boot/kernel"), None);
        assert_eq!(find(&[0x7f; 4096], "boot/kernel"), None);
        let archive = member("boot/kernel", &[1; 100]);
        assert_eq!(find(&archive[..archive.len() - 50], "boot/kernel"), None);
    }
}
