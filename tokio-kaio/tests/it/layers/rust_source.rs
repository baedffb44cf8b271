//! Reads the imports of Rust source code: `use` declarations, and other paths that start at a module
//! of the crate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Ident, Item, Meta, Token, UseTree, Visibility};

/// The path of a module, or of an item in a module, from the root of the crate.
pub(super) type ItemPath = Vec<String>;

/// A `use` declaration of one name.
#[derive(Debug)]
pub(super) struct Use {
    /// As written, without `self` at the end; `*` at the end of a glob.
    pub(super) path: ItemPath,
    /// The name that it declares; `*` for a glob.
    name: String,
    /// It has a visibility: `pub`, `pub(crate)`, …
    is_reexport: bool,
}

#[derive(Debug, Default)]
pub(super) struct Module {
    /// The file that it stands in, from the folder of the crate's root.
    pub(super) file: PathBuf,
    pub(super) uses: Vec<Use>,
    /// Paths elsewhere than in `use` that may start at a module of the crate, as written.
    paths: Vec<ItemPath>,
    /// Identifiers elsewhere than in `use`.
    pub(super) names: BTreeSet<String>,
    /// Items that it declares, except modules and macros.
    pub(super) declared: BTreeSet<String>,
}

/// The modules of a crate, by their path. Modules and items that are only compiled for tests or for
/// documentation are left out.
#[derive(Debug, Default)]
pub(super) struct Crate {
    pub(super) modules: BTreeMap<ItemPath, Module>,
    /// The modules that are left out.
    pub(super) skipped: BTreeSet<ItemPath>,
    /// The modules whose code is in files that are not read yet.
    unread: Vec<ItemPath>,
}

/// Something that a module imports: an item of another module, or that module.
#[derive(Debug)]
pub(super) struct Import {
    /// The module of the crate that has it.
    pub(super) module: ItemPath,
    /// Its name there, or the path below that name. `None`: the module itself.
    pub(super) item: Option<String>,
}

impl Crate {
    /// Reads the crate whose root is `root`, and the files of its modules.
    pub(super) fn read(root: &Path) -> Crate {
        let folder = root.parent().unwrap();
        let read = |file: &Path| {
            fs::read_to_string(folder.join(file))
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        };
        let name = Path::new(root.file_name().unwrap());
        let mut source = Crate::default();
        source.add_file(&[], name, &read(name));
        while let Some(path) = source.unread.pop() {
            let relative: PathBuf = path.iter().collect();
            let mut file = relative.with_extension("rs");
            if !folder.join(&file).exists() {
                file = relative.join("mod.rs");
            }
            source.add_file(&path, &file, &read(&file));
        }
        source
    }

    /// Adds the module `path`, without those of its modules that have files of their own.
    pub(super) fn add_file(&mut self, path: &[String], file: &Path, text: &str) {
        let code =
            syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.add_module(path.to_vec(), file, &code.attrs, &code.items);
    }

    fn add_module(
        &mut self,
        path: ItemPath,
        file: &Path,
        attributes: &[Attribute],
        items: &[Item],
    ) {
        if !is_compiled(attributes) {
            self.skipped.insert(path);
            return;
        }
        let module = Module {
            file: file.into(),
            ..Module::default()
        };
        let mut reader = Reader {
            source: self,
            path: &path,
            module,
        };
        items.iter().for_each(|item| reader.visit_item(item));
        let module = reader.module;
        self.modules.insert(path, module);
    }

    /// What `module` imports, from whichever module of the crate; of re-exports only what its own code
    /// uses, or what comes from another top-level module.
    pub(super) fn imports(&self, module: &[String]) -> Vec<Import> {
        let code = &self.modules[module];
        let uses = code.uses.iter().filter(|used| {
            let is_used = code.names.contains(&used.name);
            let target = self.target(module, &used.path, 0);
            let is_own = target.is_some_and(|target| target.module.first() == module.first());
            !used.is_reexport || is_used || !is_own
        });
        let written = uses.map(|used| &used.path).chain(&code.paths);
        let targets = written.filter_map(|path| self.target(module, path, 0));
        targets.collect()
    }

    /// Where `path`, written in `module`, leads to after `depth` re-exports. `None`: to another crate, or
    /// to the root's own items.
    fn target(&self, module: &[String], path: &[String], depth: usize) -> Option<Import> {
        assert!(depth < 20, "re-exports of {path:?} in a circle");
        let mut at = module.to_vec();
        let mut rest = path;
        match path[0].as_str() {
            "crate" => (at, rest) = (Vec::new(), &path[1..]),
            "self" | "super" => {
                while let [first, others @ ..] = rest {
                    match first.as_str() {
                        "self" => {}
                        "super" => drop(at.pop()),
                        _ => break,
                    }
                    rest = others;
                }
            }
            first if !self.modules.contains_key(&child(&at, first)) => return None,
            _ => {}
        }
        while let [first, others @ ..] = rest {
            let inner = child(&at, first);
            if self.modules.contains_key(&inner) {
                (at, rest) = (inner, others);
                continue;
            }
            let mut uses = self.modules[&at].uses.iter();
            if let Some(used) = uses.find(|used| used.name == *first && first != "*") {
                return self.target(&at, &[&used.path, others].concat(), depth + 1);
            }
            break;
        }
        let item = (!rest.is_empty()).then(|| rest.join("::"));
        (!at.is_empty()).then_some(Import { module: at, item })
    }
}

fn child(module: &[String], name: &str) -> ItemPath {
    [module, &[name.to_owned()]].concat()
}

/// Reads one module, and its modules in the same file.
struct Reader<'c> {
    source: &'c mut Crate,
    path: &'c [String],
    module: Module,
}

impl Reader<'_> {
    fn add_uses(&mut self, tree: &UseTree, prefix: &[String], is_reexport: bool) {
        let (last, name) = match tree {
            UseTree::Path(tree) => {
                let prefix = child(prefix, &text(&tree.ident));
                return self.add_uses(&tree.tree, &prefix, is_reexport);
            }
            UseTree::Group(group) => {
                let trees = group.items.iter();
                return trees.for_each(|tree| self.add_uses(tree, prefix, is_reexport));
            }
            UseTree::Name(tree) => (text(&tree.ident), None),
            UseTree::Rename(tree) => (text(&tree.ident), Some(text(&tree.rename))),
            UseTree::Glob(_) => ("*".into(), None),
        };
        let path = match last.as_str() {
            "self" if !prefix.is_empty() => prefix.to_vec(),
            last => child(prefix, last),
        };
        let name = name.unwrap_or_else(|| path.last().unwrap().clone());
        let used = Use {
            path,
            name,
            is_reexport,
        };
        self.module.uses.push(used);
    }

    /// Adds a path, if it is more than a name.
    fn add_path(&mut self, path: ItemPath) {
        if path.len() > 1 {
            self.module.paths.push(path);
        }
    }
}

/// Methods that leave out code that is only compiled for tests or documentation. Those with the field of
/// a name add that name to what the module declares.
macro_rules! visit_what_is_compiled {
    ($($visit:ident $node:ident $($($name:ident).+)?,)+) => {$(
        fn $visit(&mut self, node: &'ast syn::$node) {
            if is_compiled(&node.attrs) {
                $(self.module.declared.insert(text(&node.$($name).+));)?
                visit::$visit(self, node);
            }
        }
    )+};
}

impl<'ast> Visit<'ast> for Reader<'_> {
    visit_what_is_compiled! {
        visit_item_const ItemConst ident, visit_item_static ItemStatic ident,
        visit_item_enum ItemEnum ident, visit_item_struct ItemStruct ident,
        visit_item_union ItemUnion ident, visit_item_type ItemType ident,
        visit_item_trait ItemTrait ident, visit_item_fn ItemFn sig.ident,
        visit_item_foreign_mod ItemForeignMod, visit_item_macro ItemMacro,
        visit_item_impl ItemImpl, visit_impl_item_const ImplItemConst,
        visit_impl_item_fn ImplItemFn, visit_trait_item_fn TraitItemFn,
        visit_field Field, visit_field_value FieldValue, visit_field_pat FieldPat,
        visit_variant Variant, visit_arm Arm, visit_local Local, visit_stmt_macro StmtMacro,
        visit_expr_block ExprBlock, visit_expr_call ExprCall, visit_expr_method_call ExprMethodCall,
    }

    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        let path = child(self.path, &text(&node.ident));
        match &node.content {
            None if is_compiled(&node.attrs) => self.source.unread.push(path),
            content => {
                let items = content.as_ref().map_or(&[][..], |(_, items)| items);
                let file = &self.module.file;
                self.source.add_module(path, file, &node.attrs, items);
            }
        }
    }

    fn visit_item_use(&mut self, node: &'ast syn::ItemUse) {
        if is_compiled(&node.attrs) {
            let is_reexport = !matches!(node.vis, Visibility::Inherited);
            self.add_uses(&node.tree, &[], is_reexport);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|segment| text(&segment.ident));
        self.add_path(names.collect());
        visit::visit_path(self, path);
    }

    fn visit_ident(&mut self, name: &'ast Ident) {
        self.module.names.insert(text(name));
    }

    /// Reads the tokens of a macro, and syntax that `syn` does not know. All that looks like a path counts
    /// as one.
    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        let mut path = ItemPath::new();
        let mut colons = 0;
        for token in tokens.clone() {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.add_path(mem::take(&mut path));
                    }
                    self.visit_ident(&name);
                    path.push(text(&name));
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                other => {
                    self.add_path(mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.visit_token_stream(&group.stream());
                    }
                }
            }
        }
        self.add_path(path);
    }

    /// `pub(in crate::x)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    /// A lifetime names no item.
    fn visit_lifetime(&mut self, _: &'ast syn::Lifetime) {}

    /// The names in an attribute do not count.
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        assert!(
            is_compiled(std::slice::from_ref(attribute)),
            "{}: `#[cfg]` of something that `visit_what_is_compiled` does not list",
            self.module.file.display()
        );
    }
}

fn text(name: &Ident) -> String {
    name.unraw().to_string()
}

/// Whether code with `attributes` can be compiled outside of tests and documentation.
fn is_compiled(attributes: &[Attribute]) -> bool {
    attributes.iter().all(|attribute| {
        let is = |name| attribute.path().is_ident(name);
        assert!(!is("path"), "#[path] is not supported here");
        !is("cfg") || can_be(&attribute.parse_args().unwrap(), true)
    })
}

/// Whether a `cfg` predicate can be `value` outside of tests and documentation.
fn can_be(predicate: &Meta, value: bool) -> bool {
    let is = |name| predicate.path().is_ident(name);
    let Meta::List(list) = predicate else {
        return !(value && (is("test") || is("doc") || is("doctest")));
    };
    let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    let parts = parts.unwrap();
    let mut parts = parts.iter();
    if is("not") {
        parts.all(|part| can_be(part, !value))
    } else if is("all") == value {
        parts.all(|part| can_be(part, value))
    } else {
        parts.any(|part| can_be(part, value))
    }
}
