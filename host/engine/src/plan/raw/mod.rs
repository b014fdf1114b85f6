//! The text layer: keys, types, units and places, without any idea of what a pipeline is.
//!
//! `lower` asks a [`Reader`] for typed values; the reader reports what does not fit and goes on,
//! so that one reading of the file finds every problem in it.

mod duration;
mod json;
mod pointer;
mod reader;
mod size;
mod subject;
mod suggest;

pub(in crate::plan) use duration::span_text;
pub(in crate::plan) use json::json_text;
pub(in crate::plan) use pointer::{pointer_hint, pointer_parse, pointer_text};
pub(in crate::plan) use reader::{Reader, Section, Spanned};
pub use size::size_parse;
pub(in crate::plan) use size::size_text;
pub(in crate::plan) use subject::{Pattern, check_stream_name, check_subject, subjects_overlap};
pub(in crate::plan) use suggest::{list, nearest_or_list};
