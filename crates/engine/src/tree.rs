//! What the cache holds of sequences that are over or go on: a tree of pages, so that what begins alike is read once.
//!
//! A node is a page of tokens and where their keys and values lie, in each pool of pages (see
//! [`hob_graph::graph::windows`]). Pages that no sequence uses stay until others need the room, the one used longest ago
//! first. The idea is that of RadixAttention (Zheng et al. 2024), in pages as vLLM has them (Kwon et al. 2023).

use crate::pages::Pages;
use hob_cpu::kv::PAGE;
use hob_graph::GONE;

/// A page of some tokens.
pub type NodeId = usize;

/// Above all first pages.
pub const ROOT: NodeId = 0;

/// Where a node's keys and values lie in one pool.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// [`GONE`] when given back
    page: u32,
    /// sequences that look at it
    users: u32,
    /// when one last did
    used: u64,
}

#[derive(Debug)]
struct Node {
    parent: NodeId,
    children: Vec<NodeId>,
    /// at most [`PAGE`]; fewer only in leaves
    ids: Vec<u32>,
    /// sequences that come through here
    users: u32,
    held: Vec<Held>,
}

/// The tree, and which pages are free.
pub struct Tree {
    nodes: Vec<Node>,
    /// nodes that may be made anew
    spare: Vec<NodeId>,
    pools: Vec<(Option<usize>, Pages)>,
    clock: u64,
}

/// What a new sequence may begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// whole pages, in order
    pub path: Vec<NodeId>,
    /// a page of which the first tokens fit, and how many
    pub part: Option<(NodeId, usize)>,
}

impl Found {
    /// Its tokens.
    pub fn len(&self) -> usize {
        self.path.len() * PAGE + self.part.map_or(0, |p| p.1)
    }
}

impl Tree {
    /// A tree over pools of so many pages for layers of each window.
    pub fn new(pools: &[(Option<usize>, usize)]) -> Tree {
        let root = Node { parent: ROOT, children: Vec::new(), ids: Vec::new(), users: 0, held: Vec::new() };
        let pages = |n| Pages::new(0..u32::try_from(n).expect("the cache has room for them"));
        let pools = pools.iter().map(|&(window, n)| (window, pages(n))).collect();
        Tree { nodes: vec![root], spare: Vec::new(), pools, clock: 0 }
    }

    /// Pools of pages.
    pub fn pools(&self) -> usize {
        self.pools.len()
    }

    /// The first page that a token at `position` looks back to, in `pool`.
    pub fn seen_from(&self, pool: usize, position: usize) -> usize {
        self.pools[pool].0.map_or(0, |w| (position + 1).saturating_sub(w) / PAGE)
    }

    /// A node's page in `pool`.
    pub fn page(&self, node: NodeId, pool: usize) -> u32 {
        self.nodes[node].held[pool].page
    }

    /// Pages that are free or that no sequence uses, in the pool that has the fewest.
    pub fn available(&self) -> usize {
        let idle = |pool: usize| {
            let idle = |n: &&Node| n.held.get(pool).is_some_and(|h| h.users == 0 && h.page != GONE);
            self.nodes.iter().filter(idle).count()
        };
        (0..self.pools()).map(|pool| self.pools[pool].1.free() + idle(pool)).min().unwrap_or(0)
    }

    /// Pages of `pool` that were ever taken.
    pub fn touched(&self, pool: usize) -> usize {
        self.pools[pool].1.touched()
    }

    /// The longest beginning of `ids` that is at hand.
    pub fn find(&self, ids: &[u32]) -> Found {
        let mut found = Found::default();
        let mut at = ROOT;
        loop {
            let rest = &ids[found.path.len() * PAGE..];
            let alike = |&n: &NodeId| (common(&self.nodes[n].ids, rest), n);
            let Some((n, next)) = self.nodes[at].children.iter().map(alike).max_by_key(|c| c.0) else {
                break;
            };
            if n < PAGE {
                found.part = (n > 0).then_some((next, n));
                break;
            }
            found.path.push(next);
            at = next;
        }
        self.shorten(&mut found);
        found
    }

    /// Cuts `found` to where all is there that the next token looks back to.
    pub fn shorten(&self, found: &mut Found) {
        while !self.reaches(found) {
            if found.part.take().is_none() {
                found.path.pop();
            }
        }
    }

    /// Whether all is there that the token after `found` looks back to.
    fn reaches(&self, found: &Found) -> bool {
        let there = |pool: usize, n: NodeId| self.page(n, pool) != GONE;
        (0..self.pools()).all(|pool| {
            let from = self.seen_from(pool, found.len()).min(found.path.len());
            found.path[from..].iter().all(|&n| there(pool, n)) && found.part.is_none_or(|p| there(pool, p.0))
        })
    }

    /// Counts a sequence that comes through a node.
    pub fn enter(&mut self, node: NodeId) {
        self.nodes[node].users += 1;
    }

    /// Counts it no longer.
    pub fn leave(&mut self, node: NodeId) {
        self.nodes[node].users -= 1;
    }

    /// Counts a sequence that looks at a node's page in `pool`.
    pub fn hold(&mut self, node: NodeId, pool: usize) {
        let held = &mut self.nodes[node].held[pool];
        assert_ne!(held.page, GONE, "what is looked at is there");
        held.users += 1;
    }

    /// Counts it no longer.
    pub fn release(&mut self, node: NodeId, pool: usize) {
        self.clock += 1;
        let held = &mut self.nodes[node].held[pool];
        held.users -= 1;
        held.used = self.clock;
    }

    /// A page of `pool`, where need be one that no sequence uses. `None` when all are in use.
    pub fn take(&mut self, pool: usize) -> Option<u32> {
        loop {
            if let Some(page) = self.pools[pool].1.take() {
                return Some(page);
            }
            // Without a window the way to a page needs all before it, so leaves go first.
            let whole = self.pools[pool].0.is_none();
            let idle = |n: &Node| {
                let held = n.held.get(pool).filter(|h| h.users == 0 && h.page != GONE)?;
                (!whole || n.users == 0 && n.children.is_empty()).then_some(held.used)
            };
            let oldest = self.nodes.iter().enumerate().filter_map(|(i, n)| Some((idle(n)?, i))).min()?.1;
            match whole {
                true => self.prune(oldest),
                false => self.drop_page(oldest, pool),
            }
        }
    }

    /// Gives back a page that is no node's.
    pub fn give(&mut self, pool: usize, page: u32) {
        self.pools[pool].1.give(page);
    }

    fn drop_page(&mut self, mut node: NodeId, pool: usize) {
        let page = std::mem::replace(&mut self.nodes[node].held[pool].page, GONE);
        self.give(pool, page);
        while node != ROOT && self.is_empty(node) {
            let parent = self.nodes[node].parent;
            self.prune(node);
            node = parent;
        }
    }

    /// Whether a node is of no use to anybody.
    fn is_empty(&self, node: NodeId) -> bool {
        let n = &self.nodes[node];
        n.users == 0 && n.children.is_empty() && n.held.iter().all(|h| h.page == GONE)
    }

    /// Whether no sequence comes through a node. Then none uses those below it.
    pub fn is_idle(&self, node: NodeId) -> bool {
        self.nodes[node].users == 0
    }

    /// Forgets an idle node and those below it.
    pub fn prune(&mut self, node: NodeId) {
        let parent = self.nodes[node].parent;
        self.nodes[parent].children.retain(|&c| c != node);
        let mut below = vec![node];
        while let Some(node) = below.pop() {
            let n = &mut self.nodes[node];
            assert_eq!(n.users, 0, "nobody comes through what is forgotten");
            below.append(&mut n.children);
            n.ids.clear();
            for (pool, held) in std::mem::take(&mut n.held).into_iter().enumerate() {
                if held.page != GONE {
                    self.give(pool, held.page);
                }
            }
            self.spare.push(node);
        }
    }

    /// Forgets an idle node, but hands out its pages.
    pub fn take_over(&mut self, node: NodeId) -> Vec<u32> {
        let pages = self.nodes[node].held.iter_mut().map(|h| std::mem::replace(&mut h.page, GONE)).collect();
        self.prune(node);
        pages
    }

    /// Whether a node has all of its tokens in `n`, and none below it.
    pub fn ends_with(&self, node: NodeId, n: usize) -> bool {
        self.nodes[node].ids.len() == n && self.nodes[node].children.is_empty()
    }

    /// Puts a page's worth of tokens, or the last few of a sequence, below `parent`, with a page in each pool or
    /// [`GONE`]. Where these tokens are there already, the pages they lie in are kept, and those given are free again.
    pub fn insert(&mut self, parent: NodeId, ids: &[u32], pages: &[u32]) -> NodeId {
        self.clock += 1;
        let children = &self.nodes[parent].children;
        let (begun, known) = (
            children
                .iter()
                .copied()
                .find(|&c| ids.len() > self.nodes[c].ids.len() && ids.starts_with(&self.nodes[c].ids)),
            children.iter().copied().find(|&c| self.nodes[c].ids.starts_with(ids)),
        );
        if let Some(begun) = begun {
            self.prune(begun); // the end of a sequence, of which this is more
        }
        if let Some(node) = known {
            for (pool, &page) in pages.iter().enumerate().filter(|p| *p.1 != GONE) {
                let held = &mut self.nodes[node].held[pool];
                match held.page {
                    GONE => *held = Held { page, used: self.clock, ..*held },
                    _ => self.give(pool, page),
                }
            }
            return node;
        }
        let held = pages.iter().map(|&page| Held { page, users: 0, used: self.clock }).collect();
        let new = Node { parent, children: Vec::new(), ids: ids.to_vec(), users: 0, held };
        let node = match self.spare.pop() {
            Some(node) => {
                self.nodes[node] = new;
                node
            }
            None => {
                self.nodes.push(new);
                self.nodes.len() - 1
            }
        };
        self.nodes[parent].children.push(node);
        node
    }

    /// Forgets all that no sequence uses.
    pub fn clear(&mut self) {
        let mut below = self.nodes[ROOT].children.clone();
        while let Some(node) = below.pop() {
            match self.is_idle(node) {
                true => self.prune(node),
                false => below.extend(&self.nodes[node].children),
            }
        }
    }
}

/// How far two beginnings are the same.
pub fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
