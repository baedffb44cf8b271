//! Advice that follows from the findings, one sentence each.

mod machine_advice;
mod path_advice;
#[cfg(test)]
mod path_advice_tests;

pub(crate) use machine_advice::machine_advice;
pub(crate) use path_advice::path_advice;

use super::doctor_report::{About, Advice};

/// Collects advice.
#[derive(Default)]
struct List(Vec<Advice>);

impl List {
    fn add(&mut self, about: About, text: impl Into<String>) {
        let text = text.into();
        self.0.push(Advice { about, text });
    }
}

/// Joins names: `a`, `a and b`, `a, b and c`.
fn join_names(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [front @ .., last] => format!("{} and {last}", front.join(", ")),
    }
}
