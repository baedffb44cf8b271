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
