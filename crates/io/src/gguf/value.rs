//! Metadata values, borrowed from the file.

/// A metadata value. Integers and floats of every width are widened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// An unsigned integer of 8 to 64 bits.
    U64(u64),
    /// A signed integer of 8 to 64 bits.
    I64(i64),
    /// A float of 32 or 64 bits.
    F64(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Str(&'a str),
    /// A list of values of one type.
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// The value as an unsigned integer, when it is one.
    pub fn u64(self) -> Option<u64> {
        match self {
            Value::U64(n) => Some(n),
            Value::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a number; integers beyond 2⁵³ are rounded.
    pub fn f64(self) -> Option<f64> {
        match self {
            Value::F64(x) => Some(x),
            Value::U64(n) => Some(n as f64),
            Value::I64(n) => Some(n as f64),
            _ => None,
        }
    }

    /// The value, when it is a truth value.
    pub fn bool(self) -> Option<bool> {
        if let Value::Bool(b) = self { Some(b) } else { None }
    }

    /// The value, when it is text.
    pub fn str(self) -> Option<&'a str> {
        if let Value::Str(s) = self { Some(s) } else { None }
    }

    /// The value, when it is a list.
    pub fn array(self) -> Option<Array<'a>> {
        if let Value::Array(a) = self { Some(a) } else { None }
    }
}

/// GGUF's types of values, by their numbers in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::Str,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    pub(super) fn from_id(id: u32) -> Option<Kind> {
        Kind::ALL.get(id as usize).copied()
    }

    /// Bytes of a value; `None` where they vary.
    pub(super) fn size(self) -> Option<usize> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::Str | Kind::Array => None,
        }
    }

    /// A number or truth value from its exact bytes.
    pub(super) fn scalar<'a>(self, b: &[u8]) -> Value<'a> {
        match self {
            Kind::U8 => Value::U64(b[0] as u64),
            Kind::I8 => Value::I64(b[0] as i8 as i64),
            Kind::U16 => Value::U64(u16::from_le_bytes(fixed(b)) as u64),
            Kind::I16 => Value::I64(i16::from_le_bytes(fixed(b)) as i64),
            Kind::U32 => Value::U64(u32::from_le_bytes(fixed(b)) as u64),
            Kind::I32 => Value::I64(i32::from_le_bytes(fixed(b)) as i64),
            Kind::F32 => Value::F64(f32::from_le_bytes(fixed(b)) as f64),
            Kind::Bool => Value::Bool(b[0] != 0),
            Kind::U64 => Value::U64(u64::from_le_bytes(fixed(b))),
            Kind::I64 => Value::I64(i64::from_le_bytes(fixed(b))),
            Kind::F64 => Value::F64(f64::from_le_bytes(fixed(b))),
            Kind::Str | Kind::Array => unreachable!("strings and arrays are no scalars"),
        }
    }
}

/// The first `N` bytes of a slice known to have them.
pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| bytes[i])
}

/// A list in the metadata, still in its stored form; validated when the file was opened.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    pub(super) kind: Kind,
    pub(super) len: usize,
    pub(super) data: &'a [u8],
}

impl<'a> Array<'a> {
    /// Number of elements.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The elements of a list of strings, as bytes: tokens need not be UTF-8. `None` for another element type.
    pub fn strings(self) -> Option<impl ExactSizeIterator<Item = &'a [u8]>> {
        let mut rest = self.data;
        (self.kind == Kind::Str).then(move || {
            (0..self.len).map(move |_| {
                let (len, tail) = rest.split_at(8);
                let (text, tail) = tail.split_at(u64::from_le_bytes(fixed(len)) as usize);
                rest = tail;
                text
            })
        })
    }

    /// The elements of a list of floats, 64-bit ones rounded. `None` for another element type.
    pub fn f32s(self) -> Option<impl ExactSizeIterator<Item = f32> + 'a> {
        matches!(self.kind, Kind::F32 | Kind::F64)
            .then(|| self.scalars().map(|v| v.f64().unwrap_or_default() as f32))
    }

    /// The elements of a list of integers. `None` for another element type, or when one is beyond 63 bits.
    pub fn ints(self) -> Option<impl ExactSizeIterator<Item = i64> + 'a> {
        fn int(value: Value) -> Option<i64> {
            match value {
                Value::I64(n) => Some(n),
                Value::U64(n) => n.try_into().ok(),
                _ => None,
            }
        }
        let integers = !matches!(self.kind, Kind::Bool | Kind::Str | Kind::Array);
        (integers && self.scalars().all(|v| int(v).is_some()))
            .then(|| self.scalars().map(|v| int(v).unwrap_or(0)))
    }

    /// The elements of a list of truth values. `None` for another element type.
    pub fn bools(self) -> Option<impl ExactSizeIterator<Item = bool> + 'a> {
        (self.kind == Kind::Bool).then(|| self.data.iter().map(|&b| b != 0))
    }

    fn scalars(self) -> impl ExactSizeIterator<Item = Value<'a>> {
        let size = self.kind.size().unwrap_or(1);
        self.data.chunks_exact(size).map(move |b| self.kind.scalar(b))
    }
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{:?}; {}]", self.kind, self.len)
    }
}
