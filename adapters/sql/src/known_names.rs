//! [`KnownNames`]: the names that are completed.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;

/// The names that are completed. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownNames {
    names: Arc<RwLock<Names>>,
}

/// Names of tables and columns, in quotes where SQL needs them.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The tables of the session, and their columns.
    pub(crate) tables: BTreeSet<String>,
    pub(crate) columns: BTreeSet<String>,
    /// The columns of files and tables that earlier statements have read.
    pub(crate) columns_read: BTreeSet<String>,
}

/// The schema of the names of tables and columns, which nobody types.
const INFORMATION_SCHEMA: &str = "information_schema";

impl KnownNames {
    /// The names.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Names> {
        self.names
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn change(&self, change: impl FnOnce(&mut Names)) {
        change(
            &mut self
                .names
                .write()
                .unwrap_or_else(|poisoned| poisoned.into_inner()),
        );
    }

    /// Adds the columns of all tables and files that a statement reads.
    pub(crate) fn remember_columns_of(&self, plan: &LogicalPlan) {
        let mut columns = BTreeSet::new();
        let visited = plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                let schema = scan.source.schema();
                columns.extend(schema.fields().iter().map(|field| quoted(field.name())));
            }
            Ok(TreeNodeRecursion::Continue)
        });
        // An error could only come from the closure.
        if visited.is_ok() {
            self.change(|names| names.columns_read.append(&mut columns));
        }
    }

    /// Reads the names of the tables, and of their columns. Tables that can't be read are left out.
    pub(crate) async fn refresh(&self, context: &SessionContext) {
        let mut tables = BTreeSet::new();
        let mut columns = BTreeSet::new();
        let default = {
            let state = context.state_ref();
            let options = state.read().config_options().catalog.clone();
            (options.default_catalog, options.default_schema)
        };
        for catalog_name in context.catalog_names() {
            let Some(catalog) = context.catalog(&catalog_name) else {
                continue;
            };
            for schema_name in catalog.schema_names() {
                let Some(schema) = catalog.schema(&schema_name) else {
                    continue;
                };
                if schema_name == INFORMATION_SCHEMA {
                    continue;
                }
                for name in schema.table_names() {
                    if let Ok(Some(table)) = schema.table(&name).await {
                        let schema = table.schema();
                        columns.extend(schema.fields().iter().map(|field| quoted(field.name())));
                    }
                    let name = quoted(&name);
                    tables.insert(match (&catalog_name, &schema_name) {
                        (catalog, schema) if (catalog, schema) == (&default.0, &default.1) => name,
                        (catalog, schema) if *catalog == default.0 => {
                            format!("{}.{name}", quoted(schema))
                        }
                        (catalog, schema) => {
                            format!("{}.{}.{name}", quoted(catalog), quoted(schema))
                        }
                    });
                }
            }
        }
        self.change(|names| (names.tables, names.columns) = (tables, columns));
    }
}

/// A name as SQL needs it: in quotes, unless it has only lowercase letters, digits and underscores.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match name.chars().all(is_plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}
