//! The names that an event is searched for, as a tree.

use super::{Target, pointer_text};

/// One level of wanted names.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) children: Vec<(String, Node)>,
    pub(super) targets: Vec<Target>,
    /// The first so many of the targets take the text of the value as it is written.
    pub(super) written: usize,
    /// Index of a list element that its name is, too.
    pub(super) element: Option<usize>,
    /// Of a node with children, its index in `Decoder::parents`.
    pub(super) id: usize,
}

impl Node {
    /// Adds a target, one name after the other; whether it takes the text of the value.
    pub(super) fn want(&mut self, pointer: &[String], target: Target, as_written: bool) {
        match pointer.split_first() {
            None if as_written => {
                self.targets.insert(self.written, target);
                self.written += 1;
            }
            None => self.targets.push(target),
            Some((name, rest)) => {
                let idx = self.children.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                    self.children.push((name.clone(), Node { element: element(name), ..Node::default() }));
                    self.children.len() - 1
                });
                self.children[idx].1.want(rest, target, as_written);
            }
        }
    }

    /// Gives each node with children its id, and `parents` its pointer.
    pub(super) fn number(&mut self, pointer: String, parents: &mut Vec<String>) {
        if self.children.is_empty() {
            return;
        }
        self.id = parents.len();
        parents.push(pointer.clone());
        for (name, child) in &mut self.children {
            child.number(pointer.clone() + &pointer_text(std::slice::from_ref(name)), parents);
        }
    }
}

/// The list element that a part of a pointer names (RFC 6901: digits without leading zeros).
pub(super) fn element(name: &str) -> Option<usize> {
    let is_index = name == "0" || !name.starts_with('0') && name.bytes().all(|byte| byte.is_ascii_digit());
    if is_index { name.parse().ok() } else { None }
}
