//! What every command that boots can be told.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use clap::Args;

use super::values::{closest, megabytes, seconds};
use crate::config::keys::{self, Values};
use crate::config::{Config, Fault, Service, Switch};
use crate::disks::{self, Disk, DiskError, MOST_DISKS, Wanted};
use crate::machine::{Accel, Firmware, Hardware};
use crate::recording::Recorder;

/// What every command that boots can be told.
#[derive(Debug, Args)]
pub struct Options {
    /// Memory of the machine, in MiB, or with a unit: 512M, 2G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = megabytes)]
    pub mem: u64,
    /// How many processors the machine has
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub cpus: u8,
    /// Whether faults go through the queue to the fault service or are served by their own first poll
    #[arg(long, value_enum, default_value_t)]
    pub fault: Fault,
    /// When the fault service gets its turn; `last` keeps faults in flight while other threads run
    #[arg(long, value_enum, default_value_t)]
    pub service: Service,
    /// Keep a pool of frames that idle time has zeroed
    #[arg(long, value_enum, default_value_t)]
    pub zero_pool: Switch,
    /// How many pages a first write to anonymous memory gets at most, if those before it came one page after the other; 1
    /// for each by itself
    #[arg(long, value_name = "PAGES", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub run_ahead: u8,
    /// How long a thread runs, in milliseconds and its faults included, before others that have run less have their turn
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub slice: u16,
    /// Seed of everything that is chosen by chance: random numbers, and where a program's code, heap, mappings and stack
    /// are; 0: the usual random numbers, and every program at the place it has without randomisation
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub seed: u64,
    /// Disks.
    #[command(flatten)]
    pub disks: Disks,
    /// End the machine after this many seconds; 0 for never, which holds for run, shell and top if it is not given; 600 in
    /// the demo
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// The processor model, as QEMU names it
    #[arg(long, value_name = "MODEL", default_value = "max")]
    pub cpu: String,
    /// The firmware that starts the boot stage
    #[arg(long, value_enum, default_value_t)]
    pub firmware: Firmware,
    /// Settings below those that have an option.
    #[command(flatten)]
    pub settings: Settings,
}

impl Options {
    /// Tells the kernel what it needs to know of them.
    ///
    /// # Errors
    /// Fails when a value can't be a line of the configuration.
    pub fn configure(&self, config: &mut Config) -> anyhow::Result<()> {
        config
            .set("fault", self.fault)?
            .set("service", self.service)?
            .set("zero_pool", self.zero_pool)?
            .set("run_ahead", self.run_ahead)?
            .set("slice", self.slice)?
            .set("seed", self.seed)?;
        self.settings.configure(config)
    }

    /// Notes them in a recording.
    pub fn describe(&self, accel: Accel, recorder: &mut Recorder) {
        recorder.say("accelerator", accel);
        recorder.say("memory", format_args!("{} MiB", self.mem));
        recorder.say("processors", self.cpus);
        recorder.say("seed", self.seed);
        recorder.say("faults", format_args!("{}, service {}", self.fault, self.service));
    }

    /// The machine that was asked for.
    ///
    /// # Errors
    /// The file of a disk that can't be used.
    pub fn hardware(&self, accel: Accel) -> Result<Hardware, DiskError> {
        Ok(Hardware {
            memory: self.mem,
            cpus: self.cpus,
            disks: self.disks.open()?,
            accel,
            firmware: self.firmware,
            cpu: self.cpu.clone(),
            fast_output: !self.settings.config.iter().any(Setting::is_console),
            more: self.settings.qemu_arg.clone(),
            ..Hardware::default()
        })
    }

    /// The time limit, if one was given.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        self.timeout.filter(|limit| !limit.is_zero())
    }

    /// The time limit, or another one if none was given.
    #[must_use]
    pub fn limit_or(&self, usual: Duration) -> Option<Duration> {
        Some(self.timeout.unwrap_or(usual)).filter(|limit| !limit.is_zero())
    }
}

/// The machine's disks: `/dev/vda` is the first, then `/dev/vdb`, those for swap last.
#[derive(Clone, Debug, Default, Args)]
#[group(id = "disks")]
pub struct Disks {
    /// A disk: a file of this machine, only read with `,ro`; a folder, of which mke2fs makes a temporary ext4 file system; or
    /// model:FILE, its content in the machine's memory and as slow
    /// as a disk, with `,latency=10us,bandwidth=2G,depth=64,jitter=0.1,errors=1e-5,seed=7,hang=N`; either with
    /// `,timeout=30s`, after which a disk that does not answer is given up; may be given several times; the first ext4 file
    /// system is mounted read-only at /mnt; with `,root` what it has is seen below / too, where nothing else has the name
    #[arg(long, value_name = "FILE[,ro][,root]|DIR[,ro][,root]|model:FILE[,...]", value_parser = disks::disk)]
    pub disk: Vec<Wanted>,
    /// A disk to swap to: a size, such as 256M, for a temporary file, a file, or model:SIZE for memory that is as slow as a
    /// disk, with parameters as for --disk
    #[arg(long, value_name = "SIZE|FILE|model:SIZE[,...]", value_parser = disks::swap)]
    pub swap: Option<Wanted>,
}

impl Disks {
    /// Opens them.
    ///
    /// # Errors
    /// The file that can't be used.
    pub fn open(&self) -> Result<Vec<Disk>, DiskError> {
        let wanted: Vec<_> = self.disk.iter().chain(&self.swap).collect();
        if wanted.len() > MOST_DISKS {
            return Err(DiskError::TooMany(wanted.len()));
        }
        wanted.into_iter().map(Wanted::open).collect()
    }
}

/// Settings of the kernel and of QEMU that have no option of their own.
#[derive(Clone, Debug, Default, Args)]
#[group(id = "settings")]
pub struct Settings {
    /// A line of the kernel's configuration, which goes before what other options say; `help` lists the keys; may be given
    /// several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    pub config: Vec<Setting>,
    /// One argument more for QEMU; may be given several times: --qemu-arg=-d --qemu-arg=int
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_arg: Vec<OsString>,
}

/// What `--config` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The question which keys there are.
    Help,
    /// A key and its value.
    Line(&'static str, String),
}

impl Setting {
    /// Whether it says which ports carry what is written: then it is the serial ports.
    fn is_console(&self) -> bool {
        matches!(self, Self::Line("console", _))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Help => f.write_str("help"),
            Self::Line(key, value) => write!(f, "{key}={value}"),
        }
    }
}

impl Settings {
    /// Whether somebody asks which keys there are.
    #[must_use]
    pub fn ask_for_help(&self) -> bool {
        self.config.contains(&Setting::Help)
    }

    /// Adds the lines. The kernel takes the last line of a key, so they come after all others.
    ///
    /// # Errors
    /// Fails when a value can't be a line of the configuration.
    pub fn configure(&self, config: &mut Config) -> anyhow::Result<()> {
        for setting in &self.config {
            if let Setting::Line(key, value) = setting {
                config.set(key, value)?;
            }
        }
        Ok(())
    }
}

fn setting(text: &str) -> Result<Setting, String> {
    if text == "help" {
        return Ok(Setting::Help);
    }
    let (name, value) = text
        .split_once('=')
        .ok_or("it is not of the form KEY=VALUE; --config help lists the keys")?;
    let Some(key) = keys::find(name) else {
        let meant = closest(name, keys::KEYS.iter().map(|key| key.name));
        let meant = meant.map_or_else(String::new, |meant| format!(" (`{meant}`?)"));
        return Err(format!("there is no key `{name}`{meant}; --config help lists them"));
    };
    if !key.values.take(value) {
        return Err(format!("`{name}` takes {}", values(key.values)));
    }
    Ok(Setting::Line(key.name, value.to_owned()))
}

fn values(values: Values) -> String {
    match values {
        Values::Words(words) => words.join(", "),
        Values::Number(u64::MAX) => "a number".to_owned(),
        Values::Number(most) => format!("a number up to {most}"),
        Values::Text(form) => form.to_owned(),
    }
}

/// Every key, for `--config help`.
#[must_use]
pub fn help() -> String {
    let mut text = String::from("keys of the kernel's configuration, for --config KEY=VALUE:\n");
    for key in keys::KEYS {
        text += &format!(
            "\n{}={}\n    {}; {} if not given\n",
            key.name,
            values(key.values),
            key.meaning,
            key.default
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_checked_against_the_table_of_the_kernel() {
        assert_eq!(setting("service=last"), Ok(Setting::Line("service", "last".to_owned())));
        assert_eq!(setting("help"), Ok(Setting::Help));
        for (wrong, said) in [
            ("service", "KEY=VALUE"),
            ("servic=last", "`service`?"),
            ("service=soon", "first, last"),
            ("slice=70000", "up to 100"),
            ("audit=x", "a number"),
        ] {
            let error = setting(wrong).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }
}
