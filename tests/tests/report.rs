//! The report page in a real browser: it draws itself without an error, asks nobody for anything, and shows the figures
//! that `trace --json` prints.
//!
//! The browser is headless Chromium. Where there is none the test says so and passes, except in CI, where it fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use faultline_tests::Run;
use faultline_xtask::recording::figures::{Figures, Lengths};
use faultline_xtask::recording::{lives, page};
use faultline_xtask::report::grouped;

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

fn browser() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .flat_map(|folder| BROWSERS.map(|name| folder.join(name)))
        .find(|file| file.is_file())
}

/// What Chromium makes of a page: its elements after the script has run.
fn open(browser: &Path, page: &Path, folder: &Path) -> String {
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,2400"])
        // No name is resolved, so nothing that is not in the file could be had.
        .arg("--host-resolver-rules=MAP * ~NOTFOUND")
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(["--timeout=60000", "--dump-dom"])
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .expect("the browser starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a page is text")
}

/// The text between tags, without them.
fn text(html: &str) -> String {
    let mut inside = false;
    let outside = html.chars().filter(|char| {
        let was = inside;
        inside = match char {
            '<' => true,
            '>' => false,
            _ => inside,
        };
        !was && !inside
    });
    outside.collect()
}

/// The part of a page that starts with an element's id and ends with a tag.
fn part<'a>(page: &'a str, id: &str, end: &str) -> &'a str {
    let start = page
        .find(&format!("id=\"{id}\""))
        .unwrap_or_else(|| panic!("the page has no {id}"));
    let rest = &page[start..];
    &rest[..rest.find(end).unwrap_or(rest.len())]
}

/// The cells of each row of a table.
fn rows(page: &str, id: &str) -> Vec<Vec<String>> {
    let body = part(page, id, "</table>")
        .split_once("<tbody>")
        .expect("a table has a body")
        .1;
    let cells = |row: &str| row.split("<td>").skip(1).map(text).collect();
    body.split("<tr>").skip(1).map(cells).collect()
}

#[test]
fn the_page_shows_the_figures_of_the_recording() {
    let Some(browser) = browser() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI has no Chromium: .ci/run installs it"
        );
        println!("not tested: there is none of {BROWSERS:?} here");
        return;
    };
    let guest = Run::new("threads", &["--threads", "3", "--pages", "16"])
        .and("cow", &["--pages", "8"])
        .counted()
        .recorded("task,fault,tlb,frame,memory,syscall,signal,device,sample")
        .set("service", "last")
        .boot();
    let recording = guest.recording();
    let figures = Figures::of(recording, &lives::of(recording));
    let folder = tempfile::tempdir().expect("there is room for a page");
    let file = folder.path().join("report.html");
    let mut bytes = Vec::new();
    page::write(recording, &mut bytes).expect("memory takes any bytes");
    std::fs::write(&file, &bytes).expect("there is room for a page");
    let dom = open(&browser, &file, folder.path());

    assert!(
        dom.contains("data-ready=\"yes\""),
        "the page's script did not run to its end"
    );
    let number = |value: u64| grouped(&value.to_string());
    for (id, expected) in [
        ("faults", &figures.faults),
        ("cpuwaits", &figures.cpu_waits),
        ("bystage", &figures.stages),
    ] {
        let cells = |l: &Lengths| {
            let numbers = [l.count, l.mean, l.p50, l.p90, l.p99, l.p999, l.max].map(number);
            [l.name.clone()].into_iter().chain(numbers).collect::<Vec<_>>()
        };
        let expected: Vec<Vec<String>> = expected.iter().map(cells).collect();
        let shown: Vec<Vec<String>> = rows(&dom, id).into_iter().map(|row| row[..8].to_vec()).collect();
        assert!(expected.len() > 2, "there is something to compare in {id}");
        assert_eq!(shown, expected, "{id}");
    }
    let tlb: Vec<_> = rows(&dom, "tlb").into_iter().map(|row| row[1].clone()).collect();
    let expected = figures.tlb;
    assert_eq!(
        tlb,
        [expected.bumps, expected.whole, expected.pages, expected.skipped].map(number)
    );
    assert_eq!(rows(&dom, "tasks").len(), figures.tasks.len());
    let total: u64 = figures.faults.iter().map(|kind| kind.count).sum();
    let tile = part(&dom, "fault-count", "</b>")
        .split_once('>')
        .expect("a tile has a number")
        .1;
    assert_eq!(tile, number(total));
    let slowest = part(&dom, "slowest", "</section>");
    assert_eq!(slowest.matches("<details").count(), figures.slowest.len());
    assert!(slowest.contains(&format!(
        "{} ticks: fault {}",
        number(figures.slowest[0].ticks),
        figures.slowest[0].id
    )));
    let functions: Vec<_> = rows(&dom, "functions").into_iter().map(|row| row[0].clone()).collect();
    let expected: Vec<_> = figures.functions.iter().map(|one| one.name.clone()).collect();
    assert!(
        expected.iter().any(|name| name.starts_with("threads: ")),
        "{expected:?}"
    );
    assert_eq!(functions.len(), expected.len());
    assert!(text(part(&dom, "window", "</p>")).contains("threads 1 to "));
    // A link to a fault shows it on the timeline, with its story.
    let link = format!("{}#{}", file.display(), figures.slowest[0].id);
    let linked = open(&browser, Path::new(&link), folder.path());
    let story = part(&linked, "detail", "</div>");
    assert!(story.contains(&format!("fault {}: ", figures.slowest[0].id)), "{story}");
    // The curves and the histograms are there.
    for id in ["frames", "flight", "heat"] {
        assert!(part(&dom, id, "</section>").contains("<svg"), "{id} has a picture");
    }
}
