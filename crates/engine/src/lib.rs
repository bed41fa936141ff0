//! Generate, sample, tune: what turns graphs into answers.
