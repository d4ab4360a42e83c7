//! Processes and threads.
//!
//! A user thread is a future, [`UserThread`], that a task of the executor polls; its registers and what it waits for are
//! in it, and nothing of it is on any kernel stack. What others may know of it and ask of it is in its record,
//! [`Thread`]; what the threads of a process share is in [`Process`]; who descends from whom is in [`tree`].

mod attention;
pub mod capabilities;
pub mod exit;
pub mod farewell;
pub mod jobs;
pub mod limits;
pub mod peaks;
pub mod record;
pub mod run_time;
pub mod start;
pub mod status;
pub mod thread;
pub mod tree;
pub mod usage;
pub mod user_thread;
pub mod waiting;

pub use limits::{Limits, Resource};
pub use record::{Inherited, Process, Started, UNCHOSEN};
pub use status::{ChildChange, ExitStatus};
pub use thread::Thread;
pub use tree::{Pid, Tid};
pub use user_thread::UserThread;
