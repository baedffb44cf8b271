//! Reads the imports of Rust source code, without a parser of the whole language: its tokens, its
//! modules, its `use` declarations, and paths that start at a module of the crate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The path of a module, or of an item in a module, from the root of the crate.
pub(super) type ItemPath = Vec<String>;

/// A `use` declaration of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    /// As written, without `self` at the end; `*` at the end of a glob.
    path: ItemPath,
    /// The name that it declares; `*` for a glob.
    pub(super) name: String,
    /// It has a visibility: `pub`, `pub(crate)`, …
    pub(super) is_reexport: bool,
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
    /// Items that it declares, and those of its items that have a keyword.
    pub(super) declared: BTreeSet<String>,
}

/// The modules of a crate, by their path. Modules and items that are only compiled for tests or for
/// documentation are left out.
#[derive(Debug, Default)]
pub(super) struct Crate {
    pub(super) modules: BTreeMap<ItemPath, Module>,
    /// The modules that are left out.
    pub(super) skipped: BTreeSet<ItemPath>,
}

/// Something that a module imports: an item of another module, or that module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
        let name = PathBuf::from(root.file_name().unwrap());
        let mut source = Crate::default();
        let mut files = vec![(Vec::new(), name)];
        while let Some((path, file)) = files.pop() {
            let text = fs::read_to_string(folder.join(&file))
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            for child in source.add_file(&path, &file, &text) {
                let relative: PathBuf = child.iter().collect();
                let flat = relative.with_extension("rs");
                let file = match folder.join(&flat).exists() {
                    true => flat,
                    false => relative.join("mod.rs"),
                };
                files.push((child, file));
            }
        }
        source
    }

    /// Adds the module `path`. Returns the modules whose code is in files of their own.
    pub(super) fn add_file(&mut self, path: &[String], file: &Path, text: &str) -> Vec<ItemPath> {
        let mut reader = Reader {
            tokens: &tokens(text),
            at: 0,
            file,
            source: self,
            children: Vec::new(),
        };
        reader.module(path.to_vec());
        let at = reader.at;
        assert_eq!(
            at,
            reader.tokens.len(),
            "{}: not read to its end",
            file.display()
        );
        reader.children
    }

    /// What `module` imports, from whichever module of the crate; of re-exports only what its own code
    /// uses, or what comes from another top-level module.
    pub(super) fn imports(&self, module: &[String]) -> Vec<Import> {
        let code = &self.modules[module];
        let uses = code.uses.iter().filter(|used| {
            let is_used = code.names.contains(&used.name);
            let target = self.target(module, &used.path);
            let is_own = target.is_some_and(|target| target.module.first() == module.first());
            !used.is_reexport || is_used || !is_own
        });
        let written = uses.map(|used| &used.path).chain(&code.paths);
        let targets = written.filter_map(|path| self.target(module, path));
        targets.collect()
    }

    /// Where `path`, written in `module`, leads to. `None`: to another crate, or to the root's own items.
    fn target(&self, module: &[String], path: &[String]) -> Option<Import> {
        let mut from = module.to_vec();
        let mut rest = path;
        let first = path.first().unwrap();
        if first == "crate" {
            from.clear();
            rest = &path[1..];
        } else if first == "self" || first == "super" {
            while let Some(first) = rest
                .first()
                .filter(|&first| first == "self" || first == "super")
            {
                if first == "super" {
                    from.pop();
                }
                rest = &rest[1..];
            }
        } else {
            let child = [&from[..], std::slice::from_ref(first)].concat();
            if !self.modules.contains_key(&child) {
                return None;
            }
        }
        self.walk(from, rest, 0)
    }

    fn walk(&self, mut at: ItemPath, mut rest: &[String], depth: usize) -> Option<Import> {
        assert!(depth < 20, "re-exports of {rest:?} in a circle");
        while let Some((first, others)) = rest.split_first() {
            let child = [&at[..], std::slice::from_ref(first)].concat();
            if self.modules.contains_key(&child) {
                at = child;
                rest = others;
                continue;
            }
            let reexported = |used: &&Use| used.name == *first && first != "*";
            if let Some(used) = self.modules[&at].uses.iter().find(reexported) {
                let path = [&used.path[..], others].concat();
                if path != rest || used.path[0] == "crate" {
                    return self.target_of_use(&at, &path, depth);
                }
            }
            break;
        }
        let item = (!rest.is_empty()).then(|| rest.join("::"));
        (!at.is_empty()).then_some(Import { module: at, item })
    }

    fn target_of_use(&self, module: &[String], path: &[String], depth: usize) -> Option<Import> {
        match path[0].as_str() {
            "crate" => self.walk(Vec::new(), &path[1..], depth + 1),
            "self" => self.walk(module.to_vec(), &path[1..], depth + 1),
            "super" => {
                let parent = &module[..module.len() - 1];
                match path.get(1).is_some_and(|next| next == "super") {
                    true => self.target_of_use(parent, &path[1..], depth + 1),
                    false => self.walk(parent.to_vec(), &path[1..], depth + 1),
                }
            }
            first => {
                let child = [module, &[first.to_owned()]].concat();
                let is_child = self.modules.contains_key(&child);
                is_child.then(|| self.walk(child, &path[1..], depth + 1))?
            }
        }
    }
}

// ---- Items ------------------------------------------------------------------------------------

struct Reader<'a> {
    tokens: &'a [String],
    at: usize,
    file: &'a Path,
    source: &'a mut Crate,
    children: Vec<ItemPath>,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", String::as_str)
    }

    fn next(&mut self) -> String {
        self.at += 1;
        self.tokens[self.at - 1].clone()
    }

    /// Reads a module, up to its `}` or to the end of the file.
    fn module(&mut self, path: ItemPath) {
        let mut module = Module {
            file: self.file.into(),
            ..Module::default()
        };
        let mut depth = 0;
        let mut is_compiled = true;
        while self.at < self.tokens.len() {
            match self.peek(0) {
                "#" if self.peek(1) == "[" || (self.peek(1), self.peek(2)) == ("!", "[") => {
                    let is_inner = self.peek(1) == "!";
                    if !self.attribute() {
                        match is_inner {
                            true => is_compiled &= depth > 0,
                            false => self.skip_item(&path),
                        }
                    }
                }
                "mod" if is_name(self.peek(1)) && matches!(self.peek(2), "{" | ";") => {
                    self.next();
                    let child = [&path[..], &[self.next()]].concat();
                    if self.next() == ";" {
                        self.children.push(child);
                    } else {
                        self.module(child);
                        assert_eq!(self.next(), "}");
                    }
                }
                "use" if self.peek(1) != "<" => {
                    let is_reexport =
                        self.at > 0 && matches!(self.tokens[self.at - 1].as_str(), "pub" | ")");
                    self.next();
                    let from = module.uses.len();
                    self.use_tree(&[], &mut module.uses);
                    module.uses[from..]
                        .iter_mut()
                        .for_each(|used| used.is_reexport = is_reexport);
                    assert_eq!(self.next(), ";", "{}", self.file.display());
                }
                "{" => {
                    depth += 1;
                    self.next();
                }
                "}" if depth == 0 => break,
                "}" => {
                    depth -= 1;
                    self.next();
                }
                _ => self.name_or_path(&mut module),
            }
        }
        if is_compiled {
            self.source.modules.insert(path, module);
        } else {
            self.children.retain(|child| !child.starts_with(&path));
            self.source.skipped.insert(path);
        }
    }

    fn name_or_path(&mut self, module: &mut Module) {
        let before = self
            .at
            .checked_sub(1)
            .map_or("", |at| &self.tokens[at])
            .to_owned();
        let mut path = vec![self.next()];
        if !is_name(&path[0]) {
            return;
        }
        while self.peek(0) == "::" && is_name(self.peek(1)) {
            self.next();
            path.push(self.next());
        }
        module.names.extend(path.iter().cloned());
        const KEYWORDS: [&str; 8] = [
            "struct", "enum", "union", "trait", "type", "const", "static", "fn",
        ];
        if KEYWORDS.contains(&before.as_str()) {
            module.declared.insert(path[0].clone());
        }
        // `pub(in crate::x)` imports nothing.
        if path.len() > 1 && !["::", ".", "in"].contains(&before.as_str()) {
            module.paths.push(path);
        }
    }

    fn use_tree(&mut self, prefix: &[String], uses: &mut Vec<Use>) {
        let mut path = prefix.to_vec();
        if self.peek(0) == "::" {
            self.next(); // a path that starts at another crate
        }
        loop {
            if self.peek(0) == "{" {
                self.next();
                while self.peek(0) != "}" {
                    self.use_tree(&path, uses);
                    if self.peek(0) == "," {
                        self.next();
                    }
                }
                self.next();
                return;
            }
            path.push(self.next());
            if self.peek(0) != "::" {
                break;
            }
            self.next();
        }
        if path.len() > 1 && path.last().unwrap() == "self" {
            path.pop();
        }
        let mut name = path.last().unwrap().clone();
        if self.peek(0) == "as" {
            self.next();
            name = self.next();
        }
        uses.push(Use {
            path,
            name,
            is_reexport: false,
        });
    }

    /// Reads an attribute. `false`: what it belongs to is compiled only for tests or documentation.
    fn attribute(&mut self) -> bool {
        while self.next() != "[" {}
        let start = self.at;
        let mut depth = 1;
        while depth > 0 {
            match self.next().as_str() {
                "[" => depth += 1,
                "]" => depth -= 1,
                _ => {}
            }
        }
        let inside = &self.tokens[start..self.at - 1];
        match inside.first().map(String::as_str) {
            Some("cfg") => holds(&mut &inside[2..]) != Some(false),
            Some("path") => panic!("{}: #[path] is not supported here", self.file.display()),
            _ => true,
        }
    }

    /// Skips the rest of the attributes, and the item, field, arm or statement that they belong to.
    fn skip_item(&mut self, module: &[String]) {
        while self.peek(0) == "#" {
            self.attribute();
        }
        const ITEMS: [&str; 9] = [
            "fn",
            "impl",
            "mod",
            "struct",
            "enum",
            "trait",
            "extern",
            "unsafe",
            "macro_rules",
        ];
        const STATEMENTS: [&str; 5] = ["use", "const", "static", "type", "let"];
        let mut kind = None;
        let mut depth = 0;
        while self.at < self.tokens.len() {
            let token = self.peek(0).to_owned();
            if kind.is_none() && depth == 0 {
                let of = |kinds: &[&str]| kinds.contains(&token.as_str());
                let is_const_fn = token == "const" && matches!(self.peek(1), "fn" | "unsafe");
                if of(&STATEMENTS) && !is_const_fn {
                    kind = Some(false);
                } else if of(&ITEMS) {
                    kind = Some(true);
                }
            }
            if token == "mod" && depth == 0 {
                let path = [module, &[self.peek(1).to_owned()]].concat();
                self.source.skipped.insert(path);
            }
            match token.as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" if depth == 0 => return, // the end of what it stands in
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            self.next();
            let ends = match (token.as_str(), kind) {
                (";", _) => true,
                ("}", Some(false)) => false,
                ("}", _) => true,
                (",", None) => true,
                _ => false,
            };
            if ends && depth == 0 {
                return;
            }
        }
    }
}

/// Whether a `cfg` predicate holds outside of tests and documentation. `None`: that depends on the build.
fn holds(predicate: &mut &[String]) -> Option<bool> {
    let mut next = || {
        let (first, rest) = predicate.split_first().unwrap();
        *predicate = rest;
        first.as_str()
    };
    let name = next();
    if !matches!(name, "not" | "all" | "any") {
        if predicate.first().is_some_and(|token| token == "=") {
            *predicate = &predicate[2..];
        }
        return match name {
            "test" | "doc" | "doctest" => Some(false),
            _ => None,
        };
    }
    next();
    let mut parts = Vec::new();
    while predicate[0] != ")" {
        parts.push(holds(predicate));
        if predicate[0] == "," {
            *predicate = &predicate[1..];
        }
    }
    *predicate = &predicate[1..];
    let decisive = name == "any";
    match name {
        "not" => parts[0].map(|holds| !holds),
        _ if parts.contains(&Some(decisive)) => Some(decisive),
        _ if parts.contains(&None) => None,
        _ => Some(!decisive),
    }
}

// ---- Tokens -----------------------------------------------------------------------------------

pub(super) fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The tokens of `text`, without comments and literals: `::`, identifiers, and single characters.
/// A string is the token `"`.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        if c.is_whitespace() {
            i += 1;
        } else if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if c == '"' {
            i = end_of_string(&chars, i);
            tokens.push("\"".to_owned());
        } else if c == '\'' {
            // A lifetime has no second quote.
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            } else if at(i + 2) == '\'' {
                i += 3;
            } else {
                i += 1;
                while is_word(at(i)) {
                    i += 1;
                }
            }
        } else if is_word(c) {
            let start = i;
            while is_word(at(i)) {
                i += 1;
            }
            let word: String = chars[start..i].iter().collect();
            let is_prefix = matches!(word.as_str(), "r" | "b" | "br" | "c" | "cr");
            if is_prefix && (at(i) == '"' || (at(i) == '#' && matches!(at(i + 1), '"' | '#'))) {
                i = match word.contains('r') {
                    true => end_of_raw_string(&chars, i),
                    false => end_of_string(&chars, i),
                };
                tokens.push("\"".to_owned());
            } else if word == "r" && at(i) == '#' {
                i += 1; // a raw identifier
            } else if !c.is_ascii_digit() {
                tokens.push(word);
            }
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push("::".to_owned());
            i += 2;
        } else {
            tokens.push(c.to_string());
            i += 1;
        }
    }
    tokens
}

fn end_of_string(chars: &[char], quote: usize) -> usize {
    let mut i = quote + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let hashes = chars[start..].iter().take_while(|&&c| c == '#').count();
    let mut i = start + hashes + 1;
    while i < chars.len() {
        let closing = chars[i + 1..].iter().take_while(|&&c| c == '#').count();
        if chars[i] == '"' && closing >= hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    i
}
