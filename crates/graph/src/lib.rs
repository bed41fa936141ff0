//! One graph of ops: built, shaped, differentiated, planned and printed.
