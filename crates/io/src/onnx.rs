//! ONNX: the weights of a model (its initializers) and the nodes that use them, after `onnx.proto` of onnx 1.x.
//!
//! A file is one protobuf message. What a network computes is not taken from here but from its model file, which needs the
//! weights under the names of the original checkpoint; nodes are read for those names alone.

pub mod adm;
mod wire;

use crate::{Error, Result, Tensor, map::map};
use hob_dtype::DType;
use memmap2::Mmap;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    path::{Path, PathBuf},
};
use wire::{Field, Message, text};

/// An open ONNX file.
#[derive(Debug)]
pub struct Onnx {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

/// What a file says beside the numbers.
#[derive(Debug)]
pub struct Header {
    /// Initializers by the names of the original checkpoint, shorter dimensions of 1 at the end of renamed ones left out.
    /// Left out too: constants of formats that no weight has (bool, text, lists of integers).
    pub tensors: BTreeMap<String, Tensor>,
    /// The inputs with their dimensions, those that are free as `None`.
    pub inputs: BTreeMap<String, Vec<Option<u64>>>,
    /// Free text.
    pub metadata: BTreeMap<String, String>,
    graph: Range<usize>,
}

/// A node of the graph.
#[derive(Default)]
struct Node<'a> {
    /// such as `Conv`
    op: &'a str,
    /// names of values; an empty one was left out
    inputs: Vec<&'a str>,
    outputs: Vec<&'a str>,
    /// what torch's exporter says of it: the modules that it was in, outermost first, as Python writes a list.
    scopes: &'a str,
}

impl Node<'_> {
    /// The path of the innermost module that the node is of, where torch's exporter says it.
    fn module(&self) -> Option<String> {
        // The last one is the node's own name.
        let module = self.scopes.trim_matches(['[', ']']).rsplit("', '").nth(1)?.trim_matches('\'');
        // A part of a sequence counts its modules anew: `in_layers.slice(1, None, None).0` is `in_layers.1`.
        let Some((sequence, part)) = module.split_once(".slice(") else { return Some(module.to_owned()) };
        let (bounds, inner) = part.split_once(").")?;
        let first = match bounds.split(',').next() {
            Some("None") => 0,
            first => first?.parse::<u32>().ok()?,
        };
        let (number, rest) = inner.split_at(inner.find('.').unwrap_or(inner.len()));
        Some(format!("{sequence}.{}{rest}", first.checked_add(number.parse().ok()?)?))
    }
}

impl Onnx {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be read, is no ONNX model or damaged, or has its weights in another file.
    pub fn open(path: &Path) -> Result<Onnx> {
        let map = map(path)?;
        let header = Header::parse(&map, path)?;
        Ok(Onnx { path: path.into(), map, header })
    }

    /// What it says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The stored bytes of one of this file's tensors.
    ///
    /// Panics when `tensor` is of another file.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        &self.map[tensor.offset as usize..][..tensor.len]
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.map.len() as u64
    }
}

impl Header {
    /// Reads all of a file's `bytes`; `path` is for errors.
    ///
    /// # Errors
    /// As of [`Onnx::open`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Header> {
        let damaged = |what: String| Error::damaged(path, what);
        let (mut graph, mut metadata) = (None, BTreeMap::new());
        let mut model = Message::new(bytes, 0..bytes.len());
        while let Some((number, field)) = model.next().map_err(damaged)? {
            match (number, field) {
                (7, Field::Bytes(range)) if graph.replace(range.clone()).is_some() => {
                    return Err(damaged(format!("a second graph begins at byte {}", range.start)));
                }
                (14, Field::Bytes(range)) => {
                    let (key, value) = entry(bytes, range).map_err(damaged)?;
                    metadata.insert(key.to_owned(), value.to_owned());
                }
                _ => {}
            }
        }
        let graph = graph.ok_or_else(|| {
            Error::unsupported(
                path,
                "it holds no graph, so it is no ONNX model; give the path of a model file",
            )
        })?;
        let mut header = Header { tensors: BTreeMap::new(), inputs: BTreeMap::new(), metadata, graph };
        let mut fields = Message::new(bytes, header.graph.clone());
        while let Some((number, field)) = fields.next().map_err(damaged)? {
            match (number, field) {
                (5, Field::Bytes(range)) => {
                    let Some(tensor) = tensor(bytes, range, path)? else { continue };
                    if let Some(other) = header.tensors.insert(tensor.stored_name.clone(), tensor) {
                        return Err(damaged(format!("it has the tensor {:?} twice", other.stored_name)));
                    }
                }
                (11, Field::Bytes(range)) => {
                    let (name, dims) = input(bytes, range).map_err(damaged)?;
                    header.inputs.insert(name.to_owned(), dims);
                }
                (15, Field::Bytes(_)) => {
                    let what = "it has sparse weights, which are not supported; export it without";
                    return Err(Error::unsupported(path, what));
                }
                _ => {}
            }
        }
        header.rename(bytes).map_err(damaged)?;
        Ok(header)
    }

    /// The nodes in their order, of the bytes that this header is of.
    fn nodes<'a>(&self, bytes: &'a [u8]) -> Result<Vec<Node<'a>>, String> {
        let (mut nodes, mut fields) = (Vec::new(), Message::new(bytes, self.graph.clone()));
        while let Some((number, field)) = fields.next()? {
            if let (1, Field::Bytes(range)) = (number, field) {
                nodes.push(node(bytes, range)?);
            }
        }
        Ok(nodes)
    }

    /// Gives weights of norms their names. Exporters write a group norm as one over instances, whose weight and bias they
    /// fold into new constants `(C, 1, 1)`; torch's says of each node which module it was in.
    fn rename(&mut self, bytes: &[u8]) -> Result<(), String> {
        let nodes = self.nodes(bytes)?;
        let norms = nodes.iter().filter(|n| n.op.ends_with("Normalization"));
        let norms: HashSet<String> = norms.filter_map(Node::module).collect();
        let mut found = HashMap::new();
        for node in &nodes {
            let leaf = match node.op {
                "Mul" => "weight",
                "Add" => "bias",
                _ => continue,
            };
            let constants: Vec<&Tensor> = node.inputs.iter().filter_map(|n| self.tensors.get(*n)).collect();
            if let (Some(module), [constant]) = (node.module().filter(|m| norms.contains(m)), &constants[..])
            {
                let mut tensor = (*constant).clone();
                while tensor.shape.len() > 1 && tensor.shape.last() == Some(&1) {
                    tensor.shape.pop();
                }
                found.insert(format!("{module}.{leaf}"), tensor);
            }
        }
        for tensor in found.values() {
            self.tensors.remove(&tensor.stored_name);
        }
        for (name, tensor) in found {
            self.tensors.entry(name).or_insert(tensor);
        }
        Ok(())
    }
}

/// A `StringStringEntryProto`.
fn entry(bytes: &[u8], range: Range<usize>) -> Result<(&str, &str), String> {
    let (mut key, mut value, mut fields) = ("", "", Message::new(bytes, range));
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(range)) => key = text(bytes, range)?,
            (2, Field::Bytes(range)) => value = text(bytes, range)?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// A `NodeProto`.
fn node(bytes: &[u8], range: Range<usize>) -> Result<Node<'_>, String> {
    let (mut node, mut fields) = (Node::default(), Message::new(bytes, range));
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(range)) => node.inputs.push(text(bytes, range)?),
            (2, Field::Bytes(range)) => node.outputs.push(text(bytes, range)?),
            (4, Field::Bytes(range)) => node.op = text(bytes, range)?,
            (9, Field::Bytes(range)) => {
                if let ("pkg.torch.onnx.name_scopes", scopes) = entry(bytes, range)? {
                    node.scopes = scopes;
                }
            }
            _ => {}
        }
    }
    if node.op.is_empty() { Err("a node has no operator".into()) } else { Ok(node) }
}

/// A `ValueInfoProto`: a name, and dimensions (type, tensor, shape, dim) where it is a tensor.
fn input(bytes: &[u8], range: Range<usize>) -> Result<(&str, Vec<Option<u64>>), String> {
    let (mut name, mut dims) = ("", Vec::new());
    // The path to a dimension, from outside: 2 (type), 1 (tensor_type), 2 (shape), 1 (dim), 1 (dim_value).
    const PATH: [u64; 4] = [2, 1, 2, 1];
    let mut open = vec![Message::new(bytes, range)];
    while let Some(fields) = open.last_mut() {
        let Some((number, field)) = fields.next()? else {
            open.pop();
            continue;
        };
        match (open.len(), number, field) {
            (1, 1, Field::Bytes(range)) => name = text(bytes, range)?,
            (depth @ 1..=4, number, Field::Bytes(range)) if PATH[depth - 1] == number => {
                if depth == PATH.len() {
                    dims.push(None);
                }
                open.push(Message::new(bytes, range));
            }
            (5, 1, Field::Varint(n)) => {
                dims.pop();
                dims.push(Some(n));
            }
            _ => {}
        }
    }
    Ok((name, dims))
}

/// A `TensorProto`; `None` where no weight is of its kind.
fn tensor(bytes: &[u8], range: Range<usize>, path: &Path) -> Result<Option<Tensor>> {
    let damaged = |what: String| Error::damaged(path, what);
    let (mut name, mut dims, mut kind) = ("", Vec::new(), 0);
    let (mut raw, mut floats, mut doubles) = (None, None, None);
    let (mut pieces, mut external) = (0, false);
    let mut fields = Message::new(bytes, range);
    while let Some((number, field)) = fields.next().map_err(damaged)? {
        match (number, field) {
            (1, Field::Varint(n)) => dims.push(n),
            (1, Field::Bytes(range)) => {
                let mut packed = Message::new(bytes, range);
                while !packed.is_over() {
                    dims.push(packed.varint().map_err(damaged)?);
                }
            }
            (2, Field::Varint(n)) => kind = n,
            (8, Field::Bytes(range)) => name = text(bytes, range).map_err(damaged)?,
            // Numbers of 4 or 8 bytes, packed, are what raw_data is.
            (4, Field::Bytes(range)) => (floats, pieces) = (Some(range), pieces + 1),
            (9, Field::Bytes(range)) => (raw, pieces) = (Some(range), pieces + 1),
            (10, Field::Bytes(range)) => (doubles, pieces) = (Some(range), pieces + 1),
            (4 | 10, _) => pieces += 2,
            (13, _) | (14, Field::Varint(1)) => external = true,
            _ => {}
        }
    }
    if external {
        let what = format!(
            "its tensor {name:?} lies in another file; save it as one file (onnx.save without external data)"
        );
        return Err(Error::unsupported(path, what));
    }
    let Some(dtype) = dtype_of(kind) else { return Ok(None) };
    let data = match dtype {
        DType::F32 => raw.or(floats),
        DType::F64 => raw.or(doubles),
        _ => raw,
    };
    let Some(data) = data else {
        // Integers of a list are constants of the graph; a weight in 16 bits may be a list of them too.
        return match dtype {
            DType::F16 | DType::BF16 => Err(Error::unsupported(
                path,
                format!("its tensor {name:?} of {dtype} is a list of integers; export it with raw data"),
            )),
            _ => Ok(None),
        };
    };
    let shape: Option<Vec<usize>> = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let len = shape.as_ref().and_then(|shape| {
        // Counted without zeros, so that no product of a few dimensions overflows later.
        shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
        dtype.bytes(shape.iter().product())
    });
    match (shape, len) {
        (Some(shape), Some(len)) if len == data.len() && pieces == 1 => {
            let stored_name = name.to_owned();
            Ok(Some(Tensor { stored_name, dtype, shape, file: 0, offset: data.start as u64, len }))
        }
        _ => {
            let what = format!("tensor {name:?} of {dtype} {dims:?} does not take the bytes it has");
            Err(damaged(what))
        }
    }
}

/// `TensorProto.DataType`, of those that weights may have.
fn dtype_of(kind: u64) -> Option<DType> {
    Some(match kind {
        1 => DType::F32,
        3 => DType::I8,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        10 => DType::F16,
        11 => DType::F64,
        16 => DType::BF16,
        _ => return None,
    })
}
