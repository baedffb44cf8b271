//! [`Work`]: the queries and scans that are measured.

use crate::results::Kind;

/// A query, or a scan.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) kind: Kind,
    pub(crate) sql: &'static str,
}

const SCANS: [(&str, &str, &str); 5] = [
    (
        "scan-all",
        "lineitem, all 16 columns",
        "select * from lineitem",
    ),
    (
        "scan-1",
        "lineitem, one column",
        "select l_extendedprice from lineitem",
    ),
    (
        "scan-2",
        "lineitem, two columns far apart",
        "select l_orderkey, l_comment from lineitem",
    ),
    (
        "scan-filter",
        "lineitem, all columns, a filter that keeps 1 row in 2,000",
        "select * from lineitem where l_quantity = 1 and l_discount = 0.10 and l_tax = 0.08",
    ),
    (
        "scan-keys",
        "lineitem, all columns, a range of keys in one row group",
        "select * from lineitem where l_orderkey between 1000 and 2000",
    ),
];

/// The queries of TPC-H, and scans of its largest table.
pub(crate) fn all() -> Vec<Work> {
    let queries = kaio_tpch::queries().iter().map(|&(number, sql)| Work {
        name: format!("q{number}"),
        about: title(sql).into(),
        kind: Kind::Query,
        sql,
    });
    let scans = SCANS.map(|(name, about, sql)| Work {
        name: name.into(),
        about: about.into(),
        kind: Kind::Scan,
        sql,
    });
    queries.chain(scans).collect()
}

/// The works of a pass with a limit of memory. They read all columns of the largest table, and need little
/// memory of their own: the limit is for the page cache.
pub(crate) fn of_pass() -> Vec<Work> {
    const NAMES: [&str; 7] = ["scan-all", "q1", "q6", "q14", "q15", "q19", "scan-filter"];
    let is_wanted = |work: &Work| NAMES.contains(&&*work.name);
    all().into_iter().filter(is_wanted).collect()
}

/// The first line of a query's text is a comment with its title.
fn title(sql: &str) -> &str {
    let first = sql.lines().next().unwrap_or_default();
    first.trim_start_matches("--").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_has_a_name_and_a_title() {
        let works = all();
        assert_eq!(works.len(), 22 + SCANS.len());
        assert_eq!(
            (&*works[5].name, &*works[5].about),
            ("q6", "Forecasting revenue change")
        );
        assert!(works.iter().all(|work| !work.about.is_empty()));
        assert_eq!(of_pass().len(), 7);
    }
}
