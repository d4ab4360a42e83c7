//! From a path to a node.
//!
//! A walk keeps no copy of what is still to be walked: each symbolic link on the way is a place in its own target, and
//! there are at most [`MAX_LINKS`]. Programs choose how many parts all of them have, so a long walk lets others run.

use core::ops::Range;

use faultline_executor::yield_now;
use faultline_fallible::{Arc, Vec, try_future};

use super::directory::NAME_MAX;
use super::tree::{self, InTree, Node, NodeKind};
use super::{mount, proc};
use crate::process::Thread;
use crate::syscall::Errno;

/// Most symbolic links that one look-up follows.
const MAX_LINKS: usize = 40;

/// Bytes of paths that are walked before others run.
const TURN: usize = 8 * 1024;

/// What a part counts as beside its bytes: a look into a directory.
const PART: usize = 64;

/// Whether a symbolic link at the end of the path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// Follow it.
    Follow,
    /// Name the link itself.
    Keep,
}

/// The place that a path names, whether or not there is something.
pub struct Place {
    /// The directory.
    pub directory: Arc<Node>,
    /// The name in it; empty if the path names the directory itself.
    pub name: Vec<u8>,
    /// What is there.
    pub node: Option<Arc<Node>>,
    /// The path ends with a slash: what it names has to be a directory.
    pub wants_directory: bool,
    /// The last part is `.`.
    pub is_dot: bool,
}

/// The node that `path` names, seen from the directory `from` by the thread `viewer`.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG` or `ELOOP`, as POSIX says; `ENOMEM`; `EIO` on a disk.
pub async fn look_up(from: &Arc<Node>, path: &[u8], last_link: LastLink, viewer: &Thread) -> Result<Arc<Node>, Errno> {
    let walked = walk(from, path, last_link, viewer).await?;
    let node = walked.node.ok_or(Errno::ENOENT)?;
    if walked.wants_directory && !node.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    Ok(node)
}

/// The place that `path` names: its last part need not be there.
///
/// # Errors
/// As [`look_up`], about all parts but the last.
pub async fn locate(from: &Arc<Node>, path: &[u8], last_link: LastLink, viewer: &Thread) -> Result<Place, Errno> {
    let walked = walk(from, path, last_link, viewer).await?;
    Ok(Place {
        name: Vec::try_from_slice(walked.name())?,
        is_dot: last_part(path) == b".",
        directory: walked.directory,
        node: walked.node,
        wants_directory: walked.wants_directory,
    })
}

fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/')
        .find(|part| !part.is_empty())
        .unwrap_or_default()
}

/// A text that is being walked: the path itself, or the target of a link.
enum Text<'a> {
    Path(&'a [u8]),
    Link(Arc<Node>),
}

impl Text<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Path(path) => path,
            Self::Link(node) => node.target().unwrap_or_default(),
        }
    }
}

/// Where a walk is in a text: at its next part that leads somewhere, or at its end. So each byte is looked at once.
struct Way<'a> {
    text: Text<'a>,
    at: usize,
}

impl<'a> Way<'a> {
    fn new(text: Text<'a>) -> Self {
        let mut way = Self { text, at: 0 };
        way.skip(0);
        way
    }

    /// Goes from `end` to the next part that leads somewhere.
    fn skip(&mut self, end: usize) {
        let text = self.text.bytes();
        let mut at = end;
        while let Some(&byte) = text.get(at) {
            match (byte, text.get(at + 1)) {
                (b'/', _) | (b'.', Some(b'/') | None) => at += 1,
                _ => break,
            }
        }
        self.at = at;
    }

    /// The part that it is at, which it goes past.
    fn next(&mut self) -> Option<Range<usize>> {
        let (text, start) = (self.text.bytes(), self.at);
        let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
        let length = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        self.skip(start + length);
        Some(start..start + length)
    }

    /// Whether nothing is left that leads somewhere.
    fn is_done(&self) -> bool {
        self.at == self.text.bytes().len()
    }
}

/// What a walk came to.
struct Walked<'a> {
    directory: Arc<Node>,
    node: Option<Arc<Node>>,
    wants_directory: bool,
    /// The text with the last part, and where that is.
    last: Option<(Text<'a>, Range<usize>)>,
}

impl Walked<'_> {
    fn name(&self) -> &[u8] {
        match &self.last {
            Some((text, range)) => &text.bytes()[range.clone()],
            None => &[],
        }
    }
}

async fn walk<'a>(from: &Arc<Node>, path: &'a [u8], last_link: LastLink, viewer: &Thread) -> Result<Walked<'a>, Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut at = start(from, path);
    let mut wants_directory = ends_in_directory(path);
    let mut ways: Vec<Way<'a>> = Vec::new();
    ways.try_push(Way::new(Text::Path(path)))?;
    let (mut links, mut work) = (0, 0);
    while let Some(way) = ways.last_mut() {
        let before = way.at;
        let Some(part) = way.next() else {
            ways.pop();
            continue;
        };
        work += PART + way.at - before;
        if work >= TURN {
            work = 0;
            yield_now().await;
        }
        if !at.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        let Some(way) = ways.last() else { break };
        let name = &way.text.bytes()[part.clone()];
        if name == b".." {
            at = at.parent();
            continue;
        }
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let found = match at.kind {
            // In a box, so that other walks take no room for it.
            NodeKind::Mounted(_) => try_future(mount::look_up(&at, name))?.await,
            _ => at.child(name),
        };
        let next = match found {
            Ok(next) => Some(next),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        let is_last = ways.iter().all(Way::is_done);
        let follows = !is_last || last_link == LastLink::Follow || wants_directory;
        match next {
            Some(link) if link.is_link() && follows => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP);
                }
                if let NodeKind::Proc(node) = &link.kind {
                    at = proc::follow(*node, viewer)?;
                    if is_last {
                        return Ok(Walked {
                            directory: at.parent(),
                            node: Some(at),
                            wants_directory,
                            last: None,
                        });
                    }
                    continue;
                }
                let text = Text::Link(link);
                at = start(&at, text.bytes());
                wants_directory |= is_last && ends_in_directory(text.bytes());
                while ways.last().is_some_and(Way::is_done) {
                    ways.pop();
                }
                let way = Way::new(text);
                work += way.at;
                ways.try_push(way)?;
            }
            node if is_last => {
                return Ok(Walked {
                    directory: at,
                    node,
                    wants_directory,
                    last: ways.pop().map(|way| (way.text, part)),
                });
            }
            Some(node) => at = node,
            None => return Err(Errno::ENOENT),
        }
    }
    Ok(Walked {
        directory: at.clone(),
        node: Some(at),
        wants_directory,
        last: None,
    })
}

fn start(from: &Arc<Node>, path: &[u8]) -> Arc<Node> {
    if path.first() == Some(&b'/') {
        tree::root().clone()
    } else {
        from.clone()
    }
}

/// Whether a path names a directory by its form: it ends with a slash, or with `.` or `..`.
fn ends_in_directory(path: &[u8]) -> bool {
    matches!(path.rsplit(|&byte| byte == b'/').next(), Some(b"" | b"." | b".."))
}
