//! What comes beside a message that is received: descriptors and credentials.

use faultline_fallible::{Box, Vec};
use linux_raw_sys::net;

use super::{Caller, Errno, user};
use crate::net::rights::Rights;

/// Bytes of the head of an item beside a message.
pub(super) const HEAD: usize = 16;

/// Room for what comes beside a message.
pub(super) struct Control {
    pub at: u64,
    pub left: u64,
    /// Something had no room.
    pub is_cut: bool,
}

impl Control {
    /// Writes an item, as much of it as there is room for.
    pub async fn put(&mut self, caller: &Caller, kind: u32, data: &[u8]) -> Result<(), Errno> {
        if self.left < HEAD as u64 {
            self.is_cut = true;
            return Ok(());
        }
        let length = HEAD + data.len();
        let room = (length as u64).min(self.left);
        self.is_cut |= room < length as u64;
        let head = [room, u64::from(kind) << 32 | u64::from(net::SOL_SOCKET)];
        user::write_words(&caller.space, self.at, head).await?;
        user::write(&caller.space, self.at + HEAD as u64, &data[..room as usize - HEAD]).await?;
        let step = (length.next_multiple_of(8) as u64).min(self.left);
        self.at += step;
        self.left -= step;
        Ok(())
    }

    /// Gives the caller descriptors of open files, as many as there is room for; the others are closed.
    pub async fn put_files(&mut self, caller: &Caller, mut rights: Box<Rights>, flags: u32) -> Result<(), Errno> {
        let room = (self.left.saturating_sub(HEAD as u64) / 4) as usize;
        let close_on_exec = flags & net::MSG_CMSG_CLOEXEC != 0;
        let count = rights.len();
        let mut numbers: Vec<[u8; 4]> = Vec::try_with_capacity(count.min(room))?;
        let table = caller.thread.process.files();
        while numbers.len() < count.min(room) {
            let Some(file) = rights.take() else { break };
            let Ok(number) = table.lock().add(file, close_on_exec, 0) else {
                break;
            };
            numbers.try_push((number as u32).to_le_bytes())?;
        }
        self.is_cut |= numbers.len() < count;
        drop(rights);
        if !numbers.is_empty() {
            let cut = self.is_cut;
            self.put(caller, net::SCM_RIGHTS, numbers.as_flattened()).await?;
            self.is_cut = cut;
        }
        Ok(())
    }
}
