//! The engine and the test of the guide `docs/simulation.md`.

include!("engine.rs");
include!("power_cuts.rs");

#[test]
fn the_guide_shows_this_engine_and_this_test() {
    let guide = include_str!("../../../../docs/simulation.md");
    for code in [include_str!("engine.rs"), include_str!("power_cuts.rs")] {
        assert!(guide.contains(code), "not in the guide:\n{code}");
    }
    let explored = explore(0..20, workload, verify).unwrap();
    assert_eq!(explored.cuts(), 340, "as the guide says");
}

/// The guide shows the trace of an engine that does not sync the directory. All its other calls are of this
/// engine, too.
#[tokio::test(start_paused = true)]
async fn the_calls_of_the_trace_in_the_guide_are_real() {
    let disk = SimDisk::builder().seed(0).build();
    workload(disk.clone(), &Acknowledged::default())
        .await
        .unwrap();
    let trace = disk.trace().to_string();
    let mut real = trace.lines().map(call);
    let guide = include_str!("../../../../docs/simulation.md");
    let shown = guide.split("\ntrace:\n").nth(1).unwrap();
    let calls = shown
        .lines()
        .map(call)
        .take_while(|call| call != "power cut");
    let mut count = 0;
    for shown in calls {
        assert!(real.any(|call| call == shown), "{shown}, of {trace}");
        count += 1;
    }
    assert_eq!(count, 6);
}

/// The call of a line of a trace, without the numbers of the event and of the request, and without the time.
fn call(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().skip(2).collect();
    match words[..] {
        [kind @ ("begin" | "finish"), _, ref rest @ ..] => format!("{kind} {}", rest.join(" ")),
        _ => words.join(" "),
    }
}

#[test]
fn the_engine_survives_power_cuts_during_recovery() {
    let explorer = tokio_kaio::simulation::Explorer::new().cuts_per_run(2);
    let explored = explorer.seeds(0..10).run(workload, verify).unwrap();
    assert_eq!(explored.cuts(), 340, "as the guide says");
}

#[test]
fn the_engine_finds_a_note_that_a_cut_has_torn() {
    let small_sectors = SimDisk::builder().sector(512);
    let explorer = tokio_kaio::simulation::Explorer::new().disk(small_sectors);
    explorer.seeds(0..50).run(workload, verify).unwrap();
}
