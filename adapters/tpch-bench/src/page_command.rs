//! `render`: makes the tables and images of a page from results.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::bench_options::RenderArguments;
use crate::marked_page::replace_block;
use crate::object_store_results::{Cache, ObjectStoreResults};
use crate::ratio_chart::{Chart, Row};
use crate::ratio_tables;
use crate::results::{Kind, Quantity, Results, Store, WorkResult};

pub(crate) fn run(arguments: &RenderArguments) -> Result<()> {
    let results = Results::read(&arguments.tpch)?;
    let object_store = ObjectStoreResults::read(&arguments.object_store)?;
    let failed = |path: &Path, error| format!("{}: {error}", path.display());
    let page_path = &*arguments.page;
    let mut page = fs::read_to_string(page_path).map_err(|error| failed(page_path, error))?;
    let limited = match &results.limited {
        Some(limited) => ratio_tables::passes(limited),
        None => "Not measured.".into(),
    };
    let blocks = [
        ("setting", ratio_tables::setting(&results)),
        ("summary", ratio_tables::summary(&results)),
        (
            "queries-cold",
            ratio_tables::works(&results, Kind::Query, false),
        ),
        (
            "queries-cached",
            ratio_tables::works(&results, Kind::Query, true),
        ),
        (
            "scans-cold",
            ratio_tables::works(&results, Kind::Scan, false),
        ),
        (
            "scans-cached",
            ratio_tables::works(&results, Kind::Scan, true),
        ),
        ("limited", limited),
        ("object-store", ratio_tables::object_store(&object_store)),
    ];
    for (name, text) in &blocks {
        replace_block(&mut page, name, text)
            .map_err(|error| format!("{}: {error}", page_path.display()))?;
    }
    let images = &*arguments.images;
    fs::create_dir_all(images).map_err(|error| failed(images, error))?;
    for (name, chart) in charts(&results, &object_store) {
        let path = images.join(format!("ecosystem-{name}.svg"));
        fs::write(&path, chart.svg()?).map_err(|error| failed(&path, error))?;
    }
    Ok(fs::write(page_path, page).map_err(|error| failed(page_path, error))?)
}

fn charts(results: &Results, object_store: &ObjectStoreResults) -> Vec<(&'static str, Chart)> {
    let works = |kind, cached, title: &str| {
        let works: Vec<_> = results.works(kind, cached).collect();
        work_chart(title, &works)
    };
    let store_works = |title: &str, caches: &[Cache]| {
        let works = object_store.works.iter();
        let works = works.filter(|work| caches.contains(&work.cache));
        Chart {
            title: format!("{title}: KaioFileSystem / LocalFileSystem"),
            series: vec!["wall time", "CPU time"],
            rows: works
                .map(|work| Row {
                    label: work.about.clone(),
                    ratios: vec![Some(work.ratios.wall), Some(work.ratios.cpu)],
                })
                .collect(),
        }
    };
    let mut charts = vec![
        ("queries-cold", works(Kind::Query, false, "TPC-H, cold")),
        (
            "queries-cached",
            works(Kind::Query, true, "TPC-H, in the page cache"),
        ),
        ("scans-cold", works(Kind::Scan, false, "scans, cold")),
        (
            "object-store-cold",
            store_works(
                "object_store, not in the page cache",
                &[Cache::Cold, Cache::Limited],
            ),
        ),
        (
            "object-store-cached",
            store_works(
                "object_store, cached or written",
                &[Cache::Cached, Cache::Written],
            ),
        ),
    ];
    if let Some(limited) = &results.limited {
        let rows = (0..limited.pass_count()).map(|index| Row {
            label: format!("pass {}", index + 1),
            ratios: [Quantity::Wall, Quantity::Cpu]
                .map(|quantity| limited.ratio(index, quantity))
                .into(),
        });
        let chart = Chart {
            title: "passes with a limit of memory: KaioFileSystem / LocalFileSystem".into(),
            series: vec!["wall time", "CPU time"],
            rows: rows.collect(),
        };
        charts.push(("limited", chart));
    }
    charts
}

fn work_chart(title: &str, works: &[&WorkResult]) -> Chart {
    let mut ratios = vec![
        ("wall time", Store::Kaio, Quantity::Wall),
        ("CPU time", Store::Kaio, Quantity::Cpu),
    ];
    let has = |store| works.iter().any(|work| work.samples(store).is_some());
    if has(Store::KaioWithoutPrefetch) {
        ratios.push((
            "wall time, no prefetch",
            Store::KaioWithoutPrefetch,
            Quantity::Wall,
        ));
    }
    let row = |work: &&WorkResult| Row {
        label: match work.kind {
            Kind::Query => work.work.to_uppercase(),
            Kind::Scan => work.about.clone(),
        },
        ratios: ratios
            .iter()
            .map(|&(_, store, quantity)| work.ratio(store, quantity))
            .collect(),
    };
    Chart {
        title: format!("{title}: KaioFileSystem / LocalFileSystem"),
        series: ratios.iter().map(|(name, ..)| *name).collect(),
        rows: works.iter().map(row).collect(),
    }
}
