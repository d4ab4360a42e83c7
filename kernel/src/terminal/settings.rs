//! How a terminal treats input and sends output: `struct termios`.

use linux_raw_sys::general as linux;

/// Size of `struct termios` in the kernel's form, in bytes: four words of flags, the line discipline, 19 characters.
pub const TERMIOS: usize = 36;

/// How input is treated and output is sent.
#[derive(Clone, Copy)]
pub struct Settings {
    /// `c_iflag`.
    pub input: u32,
    /// `c_oflag`.
    pub output: u32,
    control: u32,
    local: u32,
    characters: [u8; 19],
}

impl Settings {
    /// Those of a new terminal of Linux.
    pub const INITIAL: Self = Self {
        input: linux::ICRNL | linux::IXON,
        output: linux::OPOST | linux::ONLCR,
        control: linux::B38400 | linux::CS8 | linux::CREAD,
        local: linux::ISIG
            | linux::ICANON
            | linux::ECHO
            | linux::ECHOE
            | linux::ECHOK
            | linux::ECHOCTL
            | linux::ECHOKE
            | linux::IEXTEN,
        characters: [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0],
    };

    /// Whether a local flag is set.
    pub const fn has(&self, flag: u32) -> bool {
        self.local & flag != 0
    }

    /// Whether `byte` is the control character of that index; 0 stands for none.
    pub fn is(&self, index: u32, byte: u8) -> bool {
        byte != 0 && self.characters[index as usize] == byte
    }

    /// The form that `TCSETS` passes.
    pub fn from_bytes(bytes: &[u8; TERMIOS]) -> Self {
        let word = |index: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[index * 4..index * 4 + 4]);
            u32::from_le_bytes(word)
        };
        let mut characters = [0; 19];
        characters.copy_from_slice(&bytes[17..]);
        Self {
            input: word(0),
            output: word(1),
            control: word(2),
            local: word(3),
            characters,
        }
    }

    /// The form that `TCGETS` passes.
    pub fn to_bytes(self) -> [u8; TERMIOS] {
        let mut bytes = [0; TERMIOS];
        let words = [self.input, self.output, self.control, self.local];
        for (slot, word) in bytes.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes[17..].copy_from_slice(&self.characters);
        bytes
    }
}
