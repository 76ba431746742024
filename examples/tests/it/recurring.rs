use crate::programs::{example, finish};

#[test]
fn it_tells_what_was_fired_paused_missed_and_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
    let text = finish(example("recurring").arg(&url));
    // The night in which the clock goes forward has no half past two.
    assert!(text.contains("2026-03-29T01:00:00"), "{text}");
    let (before, recorded) = text.split_once("The outcome of the occurrences:").unwrap();
    let of = |schedule: &str| -> Vec<&str> {
        let of_it = recorded.lines().skip_while(|line| line.trim() != schedule).skip(1);
        of_it.take_while(|line| line.starts_with("     ")).map(str::trim).collect()
    };
    let count = |runs: &[&str], what: &str| runs.iter().filter(|run| run.contains(what)).count();

    let crontab = of("crontab");
    assert!(count(&crontab, "fired") >= 7 && count(&crontab, "missed") == 0, "{text}");
    let quartz = of("quartz");
    assert_eq!(count(&quartz, "triggered by hand"), 1, "{text}");
    let even = |run: &&&str| run.as_bytes()[7].is_multiple_of(2);
    let fired = quartz.iter().filter(|run| run.contains("fired"));
    assert!(fired.clone().count() >= 3 && fired.clone().filter(even).eq(fired), "{text}");
    assert!(count(&of("slow"), "still ran") >= 1, "{text}");

    // The slow one was never begun before it had ended.
    let slow: Vec<_> = before.lines().filter(|line| line.contains("   slow    ")).collect();
    assert!(slow.len() >= 4, "{text}");
    assert!(slow.chunks(2).all(|pair| pair[0].ends_with("begins")), "{text}");
    assert!(slow.chunks_exact(2).all(|pair| pair[1].ends_with("ends")), "{text}");

    // While it was paused it was silent.
    let (_, rest) = before.split_once("3. Somebody pauses").unwrap();
    let (paused, _) = rest.split_once("4. No server runs").unwrap();
    let ticks = |name: &str| paused.lines().filter(|line| line.contains(name)).count();
    // One may have been fired just before.
    assert!(ticks("   crontab for") <= 1 && ticks("   quartz  for") >= 1, "{text}");
}
