//! What `top` draws, and what its keys do to it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};

use faultline_trace::FaultClass;

use super::model::{HISTORY, Look, Model, Task};
use crate::report::grouped;

/// What tasks are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Their numbers.
    #[default]
    Id,
    /// Faults a second, the most first.
    Rate,
    /// Faults so far, the most first.
    Faults,
    /// System calls so far, the most first.
    Calls,
    /// What they do.
    State,
}

impl Sort {
    const fn next(self) -> Self {
        match self {
            Self::Id => Self::Rate,
            Self::Rate => Self::Faults,
            Self::Faults => Self::Calls,
            Self::Calls => Self::State,
            Self::State => Self::Id,
        }
    }

    /// The number that it goes by, if it is one of which more comes first.
    fn number(self) -> Option<fn(&Task) -> u64> {
        match self {
            Self::Rate => Some(|task| task.rate),
            Self::Faults => Some(|task| task.faults),
            Self::Calls => Some(|task| task.calls),
            Self::Id | Self::State => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Id => "task",
            Self::Rate => "faults/s",
            Self::Faults => "faults",
            Self::Calls => "calls",
            Self::State => "state",
        }
    }
}

/// A column of the tasks.
#[derive(Clone, Copy)]
struct Column {
    title: &'static str,
    /// How wide it is; 0: what is left.
    width: u16,
    /// From which width of the screen on it is shown.
    from: u16,
}

const fn column(title: &'static str, width: u16, from: u16) -> Column {
    Column { title, width, from }
}

const COLUMNS: [Column; 8] = [
    column("task", 8, 0),
    column("process", 8, 100),
    column("program", 16, 0),
    column("state", 8, 0),
    column("faults/s", 10, 50),
    column("faults", 12, 90),
    column("calls", 10, 90),
    column("waits for", 0, 66),
];

/// Numbers as bars, from nothing to the largest of them.
fn sparkline(values: impl Iterator<Item = u64> + Clone) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.clone().max().unwrap_or(0).max(1);
    let bars = values.map(|value| BARS[(value * (BARS.len() as u64 - 1)).div_ceil(most) as usize]);
    let bars: String = bars.collect();
    format!("{bars:>HISTORY$}")
}

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing beyond the view.
    None,
    /// The end.
    Quit,
    /// The end of a process.
    Kill(u32),
}

/// What is to be seen of a machine at a moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// The lines above them.
    pub head: Vec<(String, String)>,
}

impl Snapshot {
    /// What is known now.
    #[must_use]
    pub fn of(model: &Model) -> Self {
        let number = |value: u64| grouped(&value.to_string());
        let (now, rates) = (&model.counters, &model.rates);
        let kinds = FaultClass::ALL
            .iter()
            .enumerate()
            .filter(|(class, _)| now.served[*class] > 0);
        let kinds: Vec<_> = kinds
            .map(|(class, name)| format!("{} {}", name.name(), number(rates.served[class])))
            .collect();
        let all: u64 = rates.served.iter().sum();
        let history = |of: fn(&Look) -> u64| sparkline(model.history.iter().map(of));
        let head = [
            (
                "machine",
                format!(
                    "{:.1} s, {} events seen, {} lost",
                    model.seconds(),
                    number(model.events),
                    number(model.lost)
                ),
            ),
            (
                "faults/s",
                format!(
                    "{}  {}   {}",
                    history(|look| look.faults),
                    number(all),
                    kinds.join("  ")
                ),
            ),
            (
                "faults",
                format!(
                    "{}  in flight {}  queue {}  waiting for memory {}",
                    history(|look| look.in_flight),
                    number(now.faults.0),
                    model.queue_depth(),
                    number(now.faults.1)
                ),
            ),
            (
                "frames",
                format!(
                    "{}  free {}  zeroed {}  mapped {}  tables {}  reserved {}  quarantined {}",
                    history(|look| look.free),
                    number(now.free.0),
                    number(now.free.1),
                    number(now.used.0),
                    number(now.used.1),
                    number(now.held.0),
                    number(now.held.1)
                ),
            ),
            (
                "TLB/s",
                format!(
                    "{}  whole flushes {}  pages {}  not needed {}  generations {}",
                    history(|look| look.flushes),
                    number(rates.flushes.0),
                    number(rates.flushes.1),
                    number(rates.skips.0),
                    number(rates.skips.1)
                ),
            ),
        ];
        Self {
            tasks: model.tasks(),
            head: head.map(|(name, text)| (name.to_owned(), text)).to_vec(),
        }
    }
}

/// The view.
#[derive(Debug, Default)]
pub struct View {
    snapshot: Snapshot,
    sort: Sort,
    filter: String,
    typing: bool,
    paused: bool,
    selected: TableState,
    /// A line about what happened.
    message: String,
    /// What the programs said last.
    output: String,
    ended: Option<String>,
}

impl View {
    /// Shows what is known now, unless the view is paused.
    pub fn update(&mut self, snapshot: Snapshot, output: String) {
        if !self.paused {
            self.snapshot = snapshot;
            self.output = output;
        }
    }

    /// Says that the machine has ended.
    pub fn end(&mut self, how: String) {
        self.ended = Some(how);
    }

    /// The tasks that pass the filter: the processes in order, each with its threads below the first.
    fn rows(&self) -> Vec<&Task> {
        let filter = self.filter.to_lowercase();
        let matches = |task: &&Task| {
            let line = format!(
                "{} {} {} {}",
                task.id,
                task.program,
                task.state.name(),
                task.state.waits_for()
            );
            line.to_lowercase().contains(&filter)
        };
        let mut processes = BTreeMap::<u32, Vec<&Task>>::new();
        for task in self.snapshot.tasks.iter().filter(matches) {
            processes.entry(task.process).or_default().push(task);
        }
        let mut processes: Vec<_> = processes.into_iter().collect();
        let most = |of: fn(&Task) -> u64, threads: &[&Task]| Reverse(threads.iter().map(|task| of(task)).sum::<u64>());
        match self.sort.number() {
            Some(of) => {
                processes.sort_by_key(|(_, threads)| most(of, threads));
                for (process, threads) in &mut processes {
                    threads.sort_by_key(|task| (task.id != *process, Reverse(of(task))));
                }
            }
            None if self.sort == Sort::State => {
                processes.sort_by_key(|(_, threads)| threads.iter().map(|task| task.state.clone()).min());
                for (process, threads) in &mut processes {
                    threads.sort_by_key(|task| (task.id != *process, task.state.clone()));
                }
            }
            None => {}
        }
        processes.into_iter().flat_map(|(_, threads)| threads).collect()
    }

    /// Does what a key asks for.
    pub fn key(&mut self, key: KeyEvent) -> Action {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Action::Quit;
        }
        if self.typing {
            match key.code {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => {
                    self.typing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(char) => self.filter.push(char),
                _ => {}
            }
            return Action::None;
        }
        self.message.clear();
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Down | KeyCode::Char('j') => self.selected.select_next(),
            KeyCode::Up => self.selected.select_previous(),
            KeyCode::Char('k') => {
                let rows = self.rows();
                let chosen = self
                    .selected
                    .selected()
                    .and_then(|row| rows.get(row.min(rows.len().saturating_sub(1))));
                match chosen.map(|task| (task.process, task.program.clone())) {
                    Some((process, program)) => {
                        self.message = format!("killed process {process} {program}");
                        return Action::Kill(process);
                    }
                    None => "no task is selected: choose one with the arrow keys".clone_into(&mut self.message),
                }
            }
            _ => {}
        }
        Action::None
    }

    /// Draws.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let head_height = u16::try_from(self.snapshot.head.len()).unwrap_or(0) + 2;
        let parts = [
            Constraint::Length(head_height),
            Constraint::Min(4),
            Constraint::Length(5),
            Constraint::Length(1),
        ];
        let [head, tasks, output, foot] = Layout::vertical(parts).areas(frame.area());
        self.draw_head(frame, head);
        self.draw_tasks(frame, tasks);
        let lines: Vec<_> = self.output.lines().collect();
        let last = lines[lines.len().saturating_sub(3)..].join("\n");
        frame.render_widget(Paragraph::new(last).block(Block::bordered().title(" output ")), output);
        frame.render_widget(Paragraph::new(self.foot()), foot);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let lines: Vec<_> = self
            .snapshot
            .head
            .iter()
            .map(|(name, text)| Line::from(vec![Span::styled(format!("{name:<9}"), bold), Span::raw(text.clone())]))
            .collect();
        let title = match (&self.ended, self.paused) {
            (Some(how), _) => format!(" Faultline: {how} "),
            (None, true) => " Faultline: paused ".to_owned(),
            (None, false) => " Faultline ".to_owned(),
        };
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), area);
    }

    fn draw_tasks(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let shown = |(_, column): &(Cell<'_>, Column)| column.from <= area.width;
        let rows: Vec<Row<'_>> = self
            .rows()
            .into_iter()
            .map(|task| {
                let colour = match task.state.name() {
                    "running" => Color::Green,
                    "fault" => Color::Yellow,
                    "call" => Color::Cyan,
                    _ => Color::Reset,
                };
                let id = match task.id == task.process {
                    true => task.id.to_string(),
                    false => format!("└ {}", task.id),
                };
                let cells = [
                    Cell::new(id),
                    Cell::new(task.process.to_string()),
                    Cell::new(task.program.clone()),
                    Cell::new(task.state.name()).style(Style::new().fg(colour)),
                    Cell::new(grouped(&task.rate.to_string())),
                    Cell::new(grouped(&task.faults.to_string())),
                    Cell::new(grouped(&task.calls.to_string())),
                    Cell::new(task.state.waits_for()),
                ];
                Row::new(cells.into_iter().zip(COLUMNS).filter(shown).map(|(cell, _)| cell))
            })
            .collect();
        let widths = COLUMNS.into_iter().filter(|column| column.from <= area.width);
        let widths = widths.map(|column| match column.width {
            0 => Constraint::Min(16),
            width => Constraint::Length(width),
        });
        let filter = if self.filter.is_empty() {
            String::new()
        } else {
            format!(", with \"{}\"", self.filter)
        };
        let title = format!(" {} tasks by {}{filter} ", rows.len(), self.sort.name());
        let head = Row::new(
            COLUMNS
                .into_iter()
                .filter(|column| column.from <= area.width)
                .map(|column| column.title),
        );
        let table = Table::new(rows, widths)
            .header(head.style(Style::new().add_modifier(Modifier::BOLD)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .block(Block::bordered().title(title));
        frame.render_stateful_widget(table, area, &mut self.selected);
    }

    fn foot(&self) -> String {
        if self.typing {
            return format!("filter: {}_   Enter: keep, Esc: forget", self.filter);
        }
        if self.message.is_empty() {
            "q quit   s sort   / filter   p pause   arrows select   k kill".to_owned()
        } else {
            self.message.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::model::tests::model;
    use super::*;

    fn view() -> View {
        let mut view = View::default();
        view.update(Snapshot::of(&model()), "hello\n".to_owned());
        view
    }

    fn press(view: &mut View, keys: &str) -> Action {
        let mut last = Action::None;
        for char in keys.chars() {
            let code = match char {
                '\n' => KeyCode::Enter,
                'v' => KeyCode::Down,
                char => KeyCode::Char(char),
            };
            last = view.key(KeyEvent::new(code, KeyModifiers::NONE));
        }
        last
    }

    fn screen(view: &mut View) -> String {
        screen_of(view, 150)
    }

    fn screen_of(view: &mut View, width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 24)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn tasks_and_counters_are_on_the_screen() {
        let screen = screen(&mut view());
        for wanted in [
            "touch",
            "wait4",
            "page 0x5000 (fault 9)",
            "demand-zero 1,000",
            "free 1,000",
            "hello",
            "2 tasks by task",
        ] {
            assert!(screen.contains(wanted), "{wanted} is not on\n{screen}");
        }
    }

    #[test]
    fn a_narrow_screen_has_fewer_columns() {
        let mut view = view();
        for (width, there, not_there) in [
            (99, "calls", "process"),
            (80, "waits for", "calls"),
            (60, "faults/s", "waits"),
        ] {
            let screen = screen_of(&mut view, width);
            let head = screen.lines().find(|line| line.contains("program")).unwrap();
            assert!(head.contains(there) && !head.contains(not_there), "{width}: {head}");
        }
    }

    #[test]
    fn threads_stand_below_their_process() {
        let mut view = view();
        view.snapshot.tasks[1].process = 1;
        let screen = screen(&mut view);
        let ids: Vec<_> = screen.lines().filter(|line| line.contains("touch")).collect();
        assert!(ids[0].contains("│1 ") && ids[1].contains("│└ 2 "), "{screen}");
    }

    #[test]
    fn a_history_is_bars_up_to_its_largest() {
        assert_eq!(sparkline([0, 1, 50, 100].into_iter()).trim_start(), "▁▂▅█");
        assert_eq!(sparkline(std::iter::empty()).chars().count(), HISTORY);
    }

    #[test]
    fn a_filter_hides_what_does_not_match() {
        let mut view = view();
        press(&mut view, "/page\n");
        assert!(screen(&mut view).contains("1 tasks by task, with \"page\""));
    }

    #[test]
    fn sorting_goes_through_the_columns() {
        let mut view = view();
        press(&mut view, "ss");
        assert!(screen(&mut view).contains("by faults "));
        assert_eq!(view.rows()[0].id, 2);
    }

    #[test]
    fn kill_needs_a_selected_task_and_names_its_process() {
        let mut view = view();
        assert_eq!(press(&mut view, "k"), Action::None);
        assert!(screen(&mut view).contains("no task is selected"));
        press(&mut view, "v");
        assert_eq!(press(&mut view, "k"), Action::Kill(1));
    }

    #[test]
    fn a_paused_view_stands_still() {
        let mut view = view();
        press(&mut view, "p");
        view.update(Snapshot::default(), String::new());
        let screen = screen(&mut view);
        assert!(screen.contains("paused") && screen.contains("touch"), "{screen}");
        assert_eq!(press(&mut view, "q"), Action::Quit);
    }
}
