//! Scripts from text.

use core::str::FromStr;

use faultline_mm::{FaultMode, Protection};
use thiserror::Error;

use crate::schedule::Schedule;
use crate::script::{BACKINGS, Backing, Process, Script, Settings, Step, Thread, WINDOW_PAGES};

/// What is wrong with a script.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {reason}: {text}")]
pub struct ScriptError {
    /// The line, from 1 on.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
    /// The line itself.
    pub text: String,
}

/// Words of one line, read from the front.
struct Words<'a>(core::str::SplitWhitespace<'a>);

impl Words<'_> {
    fn number<T: FromStr>(&mut self) -> Result<T, &'static str> {
        let word = self.0.next().ok_or("a number is missing")?;
        word.parse().map_err(|_| "not a number that can stand here")
    }

    fn page(&mut self) -> Result<usize, &'static str> {
        let page = self.number()?;
        if page < WINDOW_PAGES {
            Ok(page)
        } else {
            Err("a page beyond the window")
        }
    }

    fn range(&mut self) -> Result<(usize, usize), &'static str> {
        let (page, count) = (self.page()?, self.number()?);
        if count > 0 && count <= WINDOW_PAGES - page {
            Ok((page, count))
        } else {
            Err("a range beyond the window, or empty")
        }
    }

    fn protection(&mut self) -> Result<Protection, &'static str> {
        let word = self.0.next().ok_or("a protection is missing")?;
        if word == "none" {
            return Ok(Protection::empty());
        }
        word.chars().try_fold(Protection::empty(), |protection, letter| {
            Ok(protection
                | match letter {
                    'r' => Protection::READ,
                    'w' => Protection::WRITE,
                    'x' => Protection::EXECUTE,
                    _ => return Err("a protection is `none` or some of r, w and x"),
                })
        })
    }

    fn backing(&mut self) -> Result<Backing, &'static str> {
        let word = self.0.next().ok_or("a backing is missing")?;
        let found = BACKINGS.iter().find(|(name, _)| *name == word);
        found
            .map(|&(_, backing)| backing)
            .ok_or("a backing is anonymous, eager, shared, file or disk")
    }

    fn end(&mut self) -> Result<(), &'static str> {
        self.0.next().map_or(Ok(()), |_| Err("too many words"))
    }
}

fn parse_step(name: &str, words: &mut Words<'_>) -> Result<Step, &'static str> {
    let page = |words: &mut Words<'_>| words.page();
    Ok(match name {
        "read" => Step::Read { page: page(words)? },
        "read-file" => Step::ReadFile { page: page(words)? },
        "discard" => Step::Discard { page: page(words)? },
        "write" => Step::Write { page: page(words)? },
        "execute" => Step::Execute { page: page(words)? },
        "abandon" => Step::Abandon { page: page(words)? },
        "copy-in" => Step::CopyIn { page: page(words)? },
        "copy-out" => Step::CopyOut { page: page(words)? },
        "map" | "replace" => {
            let (page, count) = words.range()?;
            let (protection, backing) = (words.protection()?, words.backing()?);
            if name == "map" {
                Step::Map {
                    page,
                    count,
                    protection,
                    backing,
                }
            } else {
                Step::Replace {
                    page,
                    count,
                    protection,
                    backing,
                }
            }
        }
        "map-huge" => Step::MapHuge {
            protection: words.protection()?,
        },
        "populate" | "huge" | "no-huge" | "unmap" | "dont-need" | "protect" | "move" | "page-out" | "cold" | "free"
        | "will-need" => {
            let (page, count) = words.range()?;
            match name {
                "populate" => Step::Populate { page, count },
                "huge" | "no-huge" => Step::Huge {
                    page,
                    count,
                    on: name == "huge",
                },
                "unmap" => Step::Unmap { page, count },
                "dont-need" => Step::DontNeed { page, count },
                "page-out" => Step::PageOut { page, count },
                "cold" => Step::Cold { page, count },
                "free" => Step::Free { page, count },
                "will-need" => Step::WillNeed { page, count },
                "protect" => Step::Protect {
                    page,
                    count,
                    protection: words.protection()?,
                },
                _ => {
                    let to = words.page()?;
                    if count > WINDOW_PAGES - to {
                        return Err("a range beyond the window");
                    }
                    Step::Move { page, count, to }
                }
            }
        }
        "fork" => Step::Fork {
            process: words.number()?,
        },
        "exec" => Step::Exec,
        "end" => Step::End,
        "start" => Step::Start {
            thread: words.number()?,
        },
        "kill" => Step::Kill {
            process: words.number()?,
            thread: words.number()?,
        },
        "flushed" => Step::Flushed,
        "flush-everywhere" => Step::FlushEverywhere,
        "swap-on" => Step::SwapOn,
        "swap-off" => Step::SwapOff,
        "yield" => Step::Yield,
        "sleep" => Step::Sleep { ticks: words.number()? },
        "fail-allocation" => Step::FailAllocation { after: words.number()? },
        "drain" => Step::Drain,
        "pool" => Step::Pool {
            frames: words.number()?,
        },
        "await" => Step::Await { turn: words.number()? },
        "advance" => Step::Advance,
        _ => return Err("no such step"),
    })
}

fn parse_setting(settings: &mut Settings, name: &str, value: &str) -> Result<(), &'static str> {
    fn number<T: FromStr>(value: &str) -> Result<T, &'static str> {
        value.parse().map_err(|_| "not a number that can stand here")
    }
    match name {
        "cpus" => settings.cpus = number(value)?,
        "balance" if value == "on" => settings.balance = true,
        "frames" => settings.frames = number(value)?,
        "pcids" => settings.pcids = number(value)?,
        "slots" => settings.slots = number(value)?,
        "mode" if value == "inline" => settings.mode = FaultMode::Inline,
        "mode" if value == "handed-off" => settings.mode = FaultMode::HandedOff,
        "mode" if value == "queued" => settings.mode = FaultMode::Queued,
        "lateness" => settings.lateness = number(value)?,
        "zeroed" => settings.zeroed = number(value)?,
        "speculation" => settings.speculation = number(value)?,
        "disk-errors" => settings.disk_errors = number(value)?,
        "swap" => settings.swap = number(value)?,
        "reserve" => settings.reserve = number(value)?,
        "run-ahead" => settings.run_ahead = number(value)?,
        _ => return Err("no such setting, or no such value"),
    }
    let in_range = (1..=faultline_mm::MAX_CPUS).contains(&settings.cpus)
        && (20..=16_384).contains(&settings.frames)
        && (1..=1024).contains(&settings.slots)
        && settings.lateness < 8
        && settings.swap <= 4096
        && settings.reserve <= 1024
        && (1..=512).contains(&settings.run_ahead);
    if in_range {
        Ok(())
    } else {
        Err("a setting is out of range")
    }
}

fn parse_line(script: &mut Script, line: &str) -> Result<(), &'static str> {
    let mut words = Words(line.split_whitespace());
    let Some(name) = words.0.next().filter(|name| !name.starts_with('#')) else {
        return Ok(());
    };
    match name {
        "world" => {
            for word in words.0.by_ref() {
                let (name, value) = word.split_once('=').ok_or("a setting is NAME=VALUE")?;
                parse_setting(&mut script.settings, name, value)?;
            }
        }
        "schedule" => script.schedule = Schedule::parse(&mut words.0)?,
        "process" => script.processes.push(Process::default()),
        "thread" => {
            let cpu = words.0.next().and_then(|word| word.strip_prefix("cpu="));
            let cpu = cpu.and_then(|cpu| cpu.parse().ok()).ok_or("a thread has cpu=NUMBER")?;
            if cpu >= script.settings.cpus {
                return Err("there is no such CPU");
            }
            let process = script.processes.last_mut().ok_or("a thread before the first process")?;
            let steps = Vec::new();
            process.threads.push(Thread { cpu, steps });
        }
        _ => {
            let step = parse_step(name, &mut words)?;
            let thread = script
                .processes
                .last_mut()
                .and_then(|process| process.threads.last_mut());
            thread.ok_or("a step before the first thread")?.steps.push(step);
        }
    }
    words.end()
}

impl FromStr for Script {
    type Err = ScriptError;

    /// # Errors
    /// [`ScriptError`] names the line.
    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let mut script = Script::default();
        for (index, line) in text.lines().enumerate() {
            parse_line(&mut script, line).map_err(|reason| ScriptError {
                line: index + 1,
                reason,
                text: line.trim().to_owned(),
            })?;
        }
        Ok(script)
    }
}
