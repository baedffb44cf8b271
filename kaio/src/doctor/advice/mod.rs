//! Advice: what follows from what was found, a sentence each, and nothing that does not follow.

mod machine;
mod path;
#[cfg(test)]
mod tests;

pub(crate) use machine::of_machine;
pub(crate) use path::of_path;

use super::report::{About, Advice};

/// Advice as it is gathered.
#[derive(Default)]
struct List(Vec<Advice>);

impl List {
    fn add(&mut self, about: About, text: impl Into<String>) {
        let text = text.into();
        self.0.push(Advice { about, text });
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [front @ .., last] => format!("{} and {last}", front.join(", ")),
    }
}
