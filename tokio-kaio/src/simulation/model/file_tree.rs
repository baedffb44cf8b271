//! [`FileTree`]: the files and directories of a disk, and their names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::disk_config::NameDurability;
use super::disk_image::{DiskImage, ImageNode, ROOT};
use super::disk_request::{Errno, Inode, Rename, Stat};
use super::file_content::FileContent;
use super::name_log::{NameChange, NameLog};
use crate::simulation::seeded_rng::SeededRng;

/// The files and directories of a disk, their names, and the names that are durable.
#[derive(Clone, Debug)]
pub(super) struct FileTree {
    nodes: BTreeMap<Inode, Node>,
    next_inode: u64,
    log: NameLog,
    order: NameDurability,
    block_size: usize,
    /// Bytes.
    sector: usize,
    /// Blocks that files have allocated.
    used: u64,
}

#[derive(Clone, Debug)]
struct Node {
    body: Body,
    /// Names.
    links: u32,
    openers: u32,
    /// Durable names, and changes of names in the log: a power cut may bring the file back.
    references: u32,
    /// Whether a file without a name may get one: it was opened with `O_TMPFILE`.
    is_temporary: bool,
    /// The last name, and its directory.
    name: Arc<str>,
    parent: Inode,
    /// The operation that gave the first name, and the last one that gave or took a name.
    first_operation: u64,
    last_operation: u64,
}

#[derive(Clone, Debug)]
enum Body {
    File(FileContent),
    Directory(Directory),
}

#[derive(Clone, Debug, Default)]
struct Directory {
    entries: BTreeMap<Arc<str>, Inode>,
    durable: BTreeMap<Arc<str>, Inode>,
    /// The operations of the log that change a name here.
    pending: BTreeSet<u64>,
    /// The last of them, by name.
    last_operation: BTreeMap<Arc<str>, u64>,
}

/// An entry of a directory, which may not exist.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'p> {
    pub(super) directory: Inode,
    name: &'p str,
    pub(super) inode: Option<Inode>,
}

/// `NAME_MAX`.
const MAX_NAME: usize = 255;

impl Node {
    fn new(body: Body, parent: Inode, name: &str) -> Node {
        Node {
            body,
            links: 0,
            openers: 0,
            references: 0,
            is_temporary: false,
            name: name.into(),
            parent,
            first_operation: 0,
            last_operation: 0,
        }
    }

    fn is_dir(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }
}

impl FileTree {
    pub(super) fn new(block_size: usize, sector: usize, order: NameDurability) -> FileTree {
        let mut root = Node::new(Body::Directory(Directory::default()), ROOT, "");
        root.links = 1;
        FileTree {
            nodes: BTreeMap::from([(ROOT, root)]),
            next_inode: ROOT.0 + 1,
            log: NameLog::default(),
            order,
            block_size,
            sector,
            used: 0,
        }
    }

    /// The tree of an image, all of it durable.
    pub(super) fn boot(sector: usize, order: NameDurability, image: &DiskImage) -> FileTree {
        let image = image.content();
        let mut tree = FileTree::new(image.block_size, sector, order);
        tree.next_inode = image.next_inode;
        for (&inode, node) in &image.nodes {
            let body = match node {
                ImageNode::File(content) => {
                    Body::File(FileContent::durable(image.block_size, sector, content))
                }
                ImageNode::Directory(entries) => Body::Directory(Directory {
                    entries: entries.clone(),
                    durable: entries.clone(),
                    ..Directory::default()
                }),
            };
            if let Body::File(content) = &body {
                tree.used += content.allocated();
            }
            tree.nodes.insert(inode, Node::new(body, ROOT, ""));
        }
        tree.node_mut(ROOT).links = 1;
        for (&directory, node) in &image.nodes {
            let ImageNode::Directory(entries) = node else {
                continue;
            };
            for (name, &inode) in entries {
                let node = tree.node_mut(inode);
                node.links += 1;
                node.references += 1;
                node.name = name.clone();
                node.parent = directory;
            }
        }
        tree
    }

    pub(super) fn next_inode(&self) -> u64 {
        self.next_inode
    }

    /// Bytes of a block.
    pub(super) fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks that files have allocated.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    // ---- Look-ups -----------------------------------------------------------------------------

    pub(super) fn resolve(&self, path: &str) -> Result<Inode, Errno> {
        let mut inode = ROOT;
        for name in components(path) {
            inode = *self
                .directory(inode)?
                .entries
                .get(check_name(name)?)
                .ok_or(libc::ENOENT)?;
        }
        Ok(inode)
    }

    /// The entry of a path. Its directory exists. The root has none: `EBUSY`.
    pub(super) fn entry<'p>(&self, path: &'p str) -> Result<Entry<'p>, Errno> {
        let path = path.trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() {
            return Err(libc::EBUSY);
        }
        let directory = self.resolve(parent)?;
        let entries = &self.directory(directory)?.entries;
        let inode = entries.get(check_name(name)?).copied();
        Ok(Entry {
            directory,
            name,
            inode,
        })
    }

    pub(super) fn stat(&self, inode: Inode) -> Result<Stat, Errno> {
        let node = self.nodes.get(&inode).ok_or(libc::EBADF)?;
        let (len, blocks) = match &node.body {
            Body::File(content) => (content.len(), content.allocated()),
            Body::Directory(_) => (0, 0),
        };
        Ok(Stat {
            inode,
            len,
            is_dir: node.is_dir(),
            links: node.links,
            allocated: blocks * self.block_size as u64,
        })
    }

    pub(super) fn is_dir(&self, inode: Inode) -> bool {
        self.nodes.get(&inode).is_some_and(Node::is_dir)
    }

    pub(super) fn names(&self, inode: Inode) -> Result<Vec<String>, Errno> {
        let entries = self.directory(inode)?.entries.keys();
        Ok(entries.map(|name| name.to_string()).collect())
    }

    /// The path of a file, or its last one if it has none any more.
    pub(super) fn path(&self, inode: Inode) -> String {
        let mut names = Vec::new();
        let mut next = inode;
        while next != ROOT {
            let Some(node) = self.nodes.get(&next) else {
                break;
            };
            names.push(&*node.name);
            next = node.parent;
        }
        names.reverse();
        names.join("/")
    }

    /// Files, ascending by number.
    pub(super) fn files(&self) -> impl Iterator<Item = (Inode, &FileContent)> {
        self.nodes
            .iter()
            .filter_map(|(&inode, node)| match &node.body {
                Body::File(content) => Some((inode, content)),
                Body::Directory(_) => None,
            })
    }

    pub(super) fn content(&self, inode: Inode) -> Result<&FileContent, Errno> {
        match self.nodes.get(&inode).map(|node| &node.body) {
            Some(Body::File(content)) => Ok(content),
            Some(Body::Directory(_)) => Err(libc::EISDIR),
            None => Err(libc::EBADF),
        }
    }

    /// Changes the content of a file, and counts its blocks.
    pub(super) fn change<R>(
        &mut self,
        inode: Inode,
        change: impl FnOnce(&mut FileContent) -> R,
    ) -> Result<R, Errno> {
        let node = self.nodes.get_mut(&inode).ok_or(libc::EBADF)?;
        let is_counted = node.links > 0 || node.openers > 0;
        let Body::File(content) = &mut node.body else {
            return Err(libc::EISDIR);
        };
        let before = content.allocated();
        let result = change(content);
        if is_counted {
            self.used = self.used - before + content.allocated();
        }
        Ok(result)
    }

    /// Writes the changes of all files back that are older than one that the file has written back.
    pub(super) fn write_back_in_order(&mut self, inode: Inode) {
        let Some(Body::File(content)) = self.nodes.get_mut(&inode).map(|node| &mut node.body)
        else {
            return;
        };
        let Some(change) = content.take_written_back() else {
            return;
        };
        for node in self.nodes.values_mut() {
            if let Body::File(content) = &mut node.body {
                content.write_back(change);
            }
        }
    }

    fn directory(&self, inode: Inode) -> Result<&Directory, Errno> {
        match self.nodes.get(&inode).map(|node| &node.body) {
            Some(Body::Directory(directory)) => Ok(directory),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn node_mut(&mut self, inode: Inode) -> &mut Node {
        self.nodes.get_mut(&inode).expect("names refer to nodes")
    }

    fn directory_mut(&mut self, inode: Inode) -> &mut Directory {
        match &mut self.node_mut(inode).body {
            Body::Directory(directory) => directory,
            Body::File(_) => panic!("names are in directories"),
        }
    }

    // ---- Openers ------------------------------------------------------------------------------

    pub(super) fn open(&mut self, inode: Inode) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.openers += 1;
        }
    }

    pub(super) fn close(&mut self, inode: Inode) {
        let Some(node) = self.nodes.get_mut(&inode).filter(|node| node.openers > 0) else {
            return;
        };
        node.openers -= 1;
        if node.openers == 0 && node.links == 0 {
            self.free_space(inode);
            self.remove_unreferenced(inode);
        }
    }

    // ---- Changes of names ---------------------------------------------------------------------

    /// Makes a file without a name, which nobody has opened.
    pub(super) fn create_unnamed(&mut self, directory: Inode) -> Inode {
        let body = Body::File(FileContent::new(self.block_size, self.sector));
        let mut node = Node::new(body, directory, "(unnamed)");
        node.is_temporary = true;
        self.insert(node)
    }

    pub(super) fn create_file(&mut self, entry: Entry<'_>) -> Result<Inode, Errno> {
        let body = Body::File(FileContent::new(self.block_size, self.sector));
        self.create(entry, body)
    }

    pub(super) fn create_dir(&mut self, entry: Entry<'_>) -> Result<Inode, Errno> {
        self.create(entry, Body::Directory(Directory::default()))
    }

    fn create(&mut self, entry: Entry<'_>, body: Body) -> Result<Inode, Errno> {
        self.check_exists(entry.directory)?;
        let inode = self.insert(Node::new(body, entry.directory, entry.name));
        self.apply(vec![entry.becomes(Some(inode))], vec![], false);
        Ok(inode)
    }

    fn insert(&mut self, node: Node) -> Inode {
        let inode = Inode(self.next_inode);
        self.next_inode += 1;
        self.nodes.insert(inode, node);
        inode
    }

    pub(super) fn link(&mut self, inode: Inode, to: Entry<'_>) -> Result<(), Errno> {
        let node = self.nodes.get(&inode).ok_or(libc::EBADF)?;
        if node.is_dir() {
            return Err(libc::EPERM);
        }
        if node.links == 0 && !node.is_temporary {
            return Err(libc::ENOENT);
        }
        if to.inode.is_some() {
            return Err(libc::EEXIST);
        }
        self.check_exists(to.directory)?;
        self.apply(vec![to.becomes(Some(inode))], vec![], false);
        Ok(())
    }

    pub(super) fn unlink(&mut self, entry: Entry<'_>) -> Result<(), Errno> {
        let inode = entry.inode.ok_or(libc::ENOENT)?;
        if self.is_dir(inode) {
            return Err(libc::EISDIR);
        }
        self.apply(vec![entry.becomes(None)], vec![], false);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, entry: Entry<'_>) -> Result<(), Errno> {
        let inode = entry.inode.ok_or(libc::ENOENT)?;
        let emptied = self.check_empty(inode)?;
        self.apply(vec![entry.becomes(None)], emptied, false);
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        from: Entry<'_>,
        to: Entry<'_>,
        how: Rename,
    ) -> Result<(), Errno> {
        let moved = from.inode.ok_or(libc::ENOENT)?;
        let moves_directory = self.is_dir(moved);
        self.check_exists(to.directory)?;
        if moves_directory && self.is_inside(to.directory, moved) {
            return Err(libc::EINVAL);
        }
        let mut depends_on = Vec::new();
        match (how, to.inode) {
            (Rename::NoReplace, Some(_)) => return Err(libc::EEXIST),
            // POSIX: two names of one file stay.
            (_, Some(other)) if other == moved => return Ok(()),
            (Rename::Replace, Some(other)) if moves_directory => {
                depends_on = self.check_empty(other)?;
            }
            (Rename::Replace, Some(other)) if self.is_dir(other) => return Err(libc::EISDIR),
            (Rename::Replace | Rename::NoReplace, _) => {}
        }
        let changes = vec![from.becomes(None), to.becomes(Some(moved))];
        self.apply(changes, depends_on, moves_directory);
        Ok(())
    }

    /// Whether `inode` is `directory`, or below it.
    fn is_inside(&self, inode: Inode, directory: Inode) -> bool {
        let mut next = inode;
        while next != directory {
            if next == ROOT {
                return false;
            }
            next = self.nodes[&next].parent;
        }
        true
    }

    /// A removed directory takes no new names.
    fn check_exists(&self, directory: Inode) -> Result<(), Errno> {
        match self.nodes.get(&directory) {
            Some(node) if node.links > 0 => Ok(()),
            _ => Err(libc::ENOENT),
        }
    }

    /// The operations that have emptied the directory `inode`.
    fn check_empty(&self, inode: Inode) -> Result<Vec<u64>, Errno> {
        let directory = self.directory(inode)?;
        if !directory.entries.is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        Ok(directory.pending.iter().copied().collect())
    }

    /// Performs an operation on names.
    fn apply(&mut self, changes: Vec<NameChange>, mut depends_on: Vec<u64>, moves_directory: bool) {
        let number = self.log.last() + 1;
        for change in &changes {
            let directory = self.directory_mut(change.directory);
            match change.after {
                Some(inode) => directory.entries.insert(change.name.clone(), inode),
                None => directory.entries.remove(&change.name),
            };
            directory.pending.insert(number);
            let last = directory.last_operation.insert(change.name.clone(), number);
            depends_on.extend(last);
            for inode in change.before.into_iter().chain(change.after) {
                let node = self.node_mut(inode);
                node.references += 1;
                node.last_operation = number;
            }
            if let Some(inode) = change.after {
                let node = self.node_mut(inode);
                node.links += 1;
                node.is_temporary = false;
                node.name = change.name.clone();
                node.parent = change.directory;
                if node.first_operation == 0 {
                    node.first_operation = number;
                }
            }
        }
        let removed: Vec<Inode> = changes.iter().filter_map(|change| change.before).collect();
        let pushed = self
            .log
            .push(changes, depends_on, moves_directory, self.order);
        debug_assert_eq!(pushed, number);
        for inode in removed {
            let node = self.node_mut(inode);
            node.links -= 1;
            if node.links == 0 && node.openers == 0 {
                self.free_space(inode);
            }
        }
        if let Some(oldest) = self.log.excess() {
            self.make_durable([oldest]);
        }
    }

    // ---- Durable names ------------------------------------------------------------------------

    /// The number of the last operation on names.
    pub(super) fn last_operation(&self) -> u64 {
        self.log.last()
    }

    /// The operations that gave a file its first name, and that changed its names last. 0: none since the disk
    /// was booted.
    pub(super) fn operations_of(&self, inode: Inode) -> (u64, u64) {
        let node = self.nodes.get(&inode);
        node.map_or((0, 0), |node| (node.first_operation, node.last_operation))
    }

    /// Makes the operations on names of a directory durable, up to the number `last`.
    pub(super) fn sync_dir(&mut self, inode: Inode, last: u64) -> Result<(), Errno> {
        let pending = self.directory(inode)?.pending.range(..=last);
        let pending: Vec<u64> = pending.copied().collect();
        self.make_durable(pending);
        Ok(())
    }

    /// Makes operations and those that they depend on durable.
    pub(super) fn make_durable(&mut self, numbers: impl IntoIterator<Item = u64>) {
        let mut released = Vec::new();
        for (number, operation) in self.log.take_durable(numbers) {
            for change in operation.changes {
                let directory = self.directory_mut(change.directory);
                directory.pending.remove(&number);
                if directory.last_operation.get(&change.name) == Some(&number) {
                    directory.last_operation.remove(&change.name);
                }
                let replaced = match change.after {
                    Some(inode) => directory.durable.insert(change.name.clone(), inode),
                    None => directory.durable.remove(&change.name),
                };
                if let Some(inode) = change.after {
                    self.node_mut(inode).references += 1;
                }
                released.extend(replaced);
                released.extend(change.before);
                released.extend(change.after);
            }
        }
        for inode in released {
            self.release(inode);
        }
    }

    /// Gives one reference back.
    fn release(&mut self, inode: Inode) {
        self.node_mut(inode).references -= 1;
        self.remove_unreferenced(inode);
    }

    /// The file can't be used any more: its space is free. A power cut may still bring it back.
    fn free_space(&mut self, inode: Inode) {
        if let Body::File(content) = &self.nodes[&inode].body {
            self.used -= content.allocated();
        }
    }

    fn remove_unreferenced(&mut self, inode: Inode) {
        let node = &self.nodes[&inode];
        if node.links > 0 || node.openers > 0 || node.references > 0 {
            return;
        }
        let node = self.nodes.remove(&inode).expect("it was there");
        if let Body::Directory(directory) = node.body {
            for inode in directory.durable.into_values() {
                self.release(inode);
            }
        }
    }

    /// The names that survive a power cut, by directory: all directories that can be reached.
    pub(super) fn survive(
        &self,
        rng: &mut SeededRng,
    ) -> BTreeMap<Inode, BTreeMap<Arc<str>, Inode>> {
        let mut changed: BTreeMap<Inode, BTreeMap<Arc<str>, Inode>> = BTreeMap::new();
        let durable = |inode| match self.directory(inode) {
            Ok(directory) => directory.durable.clone(),
            Err(_) => BTreeMap::new(),
        };
        for operation in self.log.survive(self.order, rng) {
            for change in &operation.changes {
                let directory = change.directory;
                let entries = changed
                    .entry(directory)
                    .or_insert_with(|| durable(directory));
                match change.after {
                    Some(inode) => entries.insert(change.name.clone(), inode),
                    None => entries.remove(&change.name),
                };
            }
        }
        let mut reached = BTreeMap::new();
        let mut next = vec![ROOT];
        while let Some(inode) = next.pop() {
            if reached.contains_key(&inode) {
                continue;
            }
            let entries = changed.remove(&inode).unwrap_or_else(|| durable(inode));
            next.extend(entries.values().filter(|&&inode| self.is_dir(inode)));
            reached.insert(inode, entries);
        }
        reached
    }
}

impl Entry<'_> {
    fn becomes(&self, after: Option<Inode>) -> NameChange {
        NameChange {
            directory: self.directory,
            name: self.name.into(),
            before: self.inode,
            after,
        }
    }
}

fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

fn check_name(name: &str) -> Result<&str, Errno> {
    match name.len() {
        0..=MAX_NAME => Ok(name),
        _ => Err(libc::ENAMETOOLONG),
    }
}
