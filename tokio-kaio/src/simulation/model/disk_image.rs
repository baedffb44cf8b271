//! [`DiskImage`]: the content of a disk after a power cut.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::disk_config::DiskConfig;
use super::disk_request::Inode;
use super::file_content::SurvivingContent;
use crate::simulation::fault::FaultPlan;

/// The content of a simulated disk after a power cut. A clone shares its memory.
///
/// `Debug` prints the files with their lengths.
#[derive(Clone)]
pub struct DiskImage(Arc<ImageContent>);

pub(super) struct ImageContent {
    /// Of the disk before, with another seed.
    pub(super) config: DiskConfig,
    pub(super) block_size: usize,
    pub(super) nodes: BTreeMap<Inode, ImageNode>,
    /// Numbers from here on were never used.
    pub(super) next_inode: u64,
}

/// A file or a directory that has a name.
pub(super) enum ImageNode {
    File(SurvivingContent),
    Directory(BTreeMap<Arc<str>, Inode>),
}

/// The root of every disk.
pub(super) const ROOT: Inode = Inode(0);

impl DiskImage {
    pub(super) fn new(content: ImageContent) -> DiskImage {
        DiskImage(Arc::new(content))
    }

    pub(super) fn content(&self) -> &ImageContent {
        &self.0
    }

    /// The properties of the disk that boots from this image: those of the disk before, with a seed that
    /// follows from its seed, and without faults.
    pub(crate) fn config(&self) -> DiskConfig {
        DiskConfig {
            faults: FaultPlan::new(),
            ..self.0.config.clone()
        }
    }

    /// Calls `visit` for each file and directory below `directory`.
    fn walk(&self, directory: Inode, path: &str, visit: &mut dyn FnMut(String, &ImageNode)) {
        let Some(ImageNode::Directory(entries)) = self.0.nodes.get(&directory) else {
            return;
        };
        for (name, inode) in entries {
            let path = format!("{path}/{name}");
            if let Some(node) = self.0.nodes.get(inode) {
                visit(path.clone(), node);
                self.walk(*inode, &path, visit);
            }
        }
    }
}

impl fmt::Debug for DiskImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        self.walk(ROOT, "", &mut |path, node| {
            match node {
                ImageNode::File(content) => map.entry(&path, &content.len),
                ImageNode::Directory(_) => map.entry(&path, &format_args!("directory")),
            };
        });
        map.finish()
    }
}
