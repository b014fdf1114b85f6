//! `[[stage]]`: modules in order, each with its configuration and perhaps a window.

use toml_edit::{Item, TableLike};

use super::window;
use crate::plan::Stage;
use crate::plan::draft::DraftStage;
use crate::plan::raw::{Reader, Section, Spanned, json_text, nearest_or_list};
use crate::problem::{Place, code};
use crate::time::Span;

const KEYS: [&str; 6] = ["name", "from", "module", "config", "window", "ttl"];
const REQUIRED: [(&str, &str); 2] =
    [("name", "name = \"stream-farm\""), ("module", "module = \"../target/modules/fraud.wasm\"")];
/// Stages of the host's own dead letters.
const RESERVED: [(&str, &str); 5] = [
    (SOURCE, "dead letters of events that cannot be read"),
    ("pipeline", "dead letters of the pipeline itself"),
    ("core", "state of the host"),
    ("order", "state of the host"),
    ("dedupe", "state of the host"),
];
/// Stands for the events as they come in.
const SOURCE: &str = "source";
const NO_STAGE: &str = "a pipeline needs at least one stage: add `[[stage]]`";
const STAGES_MAX: usize = 16;
/// Ten years.
const TTL_MAX: Span = Span::from_secs(3653 * 86_400);

/// All stages in order; `None` for one that is not usable and has been reported.
pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>) -> Vec<Option<DraftStage>> {
    let Some(item) = reader.item(root, "stage") else {
        let message = "the pipeline file has no `stage`".to_owned();
        reader.report(code::MISSING_KEY, root.place, message, NO_STAGE);
        return Vec::new();
    };
    let Some(tables) = tables(reader, item) else {
        let hint = "write `[[stage]]` above each stage";
        // One stage that is not usable: outputs then do not complain about stages they cannot see.
        return vec![reader.wrong_type_hint("stage", item.value, item.place, "a list of tables", hint)];
    };
    if tables.is_empty() || tables.len() > STAGES_MAX {
        let hint = if tables.is_empty() { NO_STAGE } else { "split it into pipelines that read each other's outputs" };
        let message = format!("the pipeline has {} stages, allowed are 1 to {STAGES_MAX}", tables.len());
        reader.report(code::BAD_VALUE, item.place, message, hint);
    }
    let mut names: Vec<&str> = Vec::new();
    tables.into_iter().map(|table| stage(reader, table, &mut names)).collect()
}

/// The tables of `[[stage]]`, or of `stage = [{ … }]`.
fn tables<'a>(reader: &Reader<'_>, item: Spanned<&'a Item>) -> Option<Vec<Spanned<&'a dyn TableLike>>> {
    let at = |span: Option<std::ops::Range<usize>>| span.map_or(item.place, |span| reader.place(span.start));
    if let Some(tables) = item.value.as_array_of_tables() {
        return Some(
            tables.iter().map(|table| Spanned { value: table as &dyn TableLike, place: at(table.span()) }).collect(),
        );
    }
    let values = item.value.as_array()?.iter();
    values
        .map(|value| {
            let table = value.as_inline_table()?;
            Some(Spanned { value: table as &dyn TableLike, place: at(value.span()) })
        })
        .collect()
}

fn stage<'a>(
    reader: &mut Reader<'_>,
    table: Spanned<&'a dyn TableLike>,
    names: &mut Vec<&'a str>,
) -> Option<DraftStage> {
    let section = reader.section(table, "`[[stage]]`", &KEYS);
    reader.require(&section, &REQUIRED);
    let name = reader.text(&section, "name").and_then(|name| reader.name("a stage", name));
    if let Some(name) = name {
        reader.reserved("a stage", name, &RESERVED);
        if names.contains(&name.value) {
            let message = format!("two stages have the name `{}`", name.value);
            reader.report(code::BAD_NAME, name.place, message, "give each stage a name of its own");
        }
        names.push(name.value);
    }
    let from = from(reader, &section, names);
    let module = module(reader, &section);
    let config = config(reader, &section);
    let window = reader.table(&section, "window");
    let window_place = window.map_or(table.place, |window| window.place);
    let window = window.and_then(|window| window::read(reader, window));
    let ttl = reader.duration(&section, "ttl", Span::from_secs(1)..=TTL_MAX).map(|ttl| ttl.value);
    let (name, module, config) = (name?.value.to_owned(), module?.value.to_owned(), config?.value);
    let stage = Stage { name, from, module, config, window, ttl };
    let config_place = reader.item(&section, "config").map_or(table.place, |item| item.place);
    let module_place = reader.item(&section, "module").map_or(table.place, |item| item.place);
    let from_place = reader.item(&section, "from").map_or(table.place, |item| item.place);
    let ttl_place = reader.item(&section, "ttl").map_or(table.place, |item| item.place);
    Some(DraftStage { stage, place: table.place, from_place, module_place, config_place, window_place, ttl_place })
}

/// The stage that this one reads: the one before it unless it says another one that comes before it. `names` ends with its
/// own, when that is usable.
fn from(reader: &mut Reader<'_>, section: &Section<'_>, names: &[&str]) -> Option<usize> {
    let before = names.len().saturating_sub(1);
    let Some(from) = reader.text(section, "from").filter(|from| from.value != SOURCE) else {
        let is_source = reader.item(section, "from").is_some();
        return before.checked_sub(1).filter(|_| !is_source);
    };
    let known = names[..before].iter().position(|name| *name == from.value);
    if known.is_none() {
        let name = from.value.escape_debug();
        let message = format!("there is no stage `{name}` before this one");
        let mut choices = names[..before].to_vec();
        choices.push(SOURCE);
        let hint = if from.value.contains('.') {
            "a stage reads the first port of another one, so name the stage alone".to_owned()
        } else {
            nearest_or_list(from.value, "stages", &choices)
        };
        reader.report(code::BAD_VALUE, from.place, message, hint);
    }
    known
}

fn module<'a>(reader: &mut Reader<'_>, section: &Section<'a>) -> Option<Spanned<&'a str>> {
    let module = reader.text(section, "module")?;
    if module.value.ends_with(".wasm") && !module.value.contains('\0') {
        return Some(module);
    }
    let digest = module.value.strip_prefix("sha256:").unwrap_or(module.value);
    let is_digest =
        digest.len() != module.value.len() || digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    let what = match (is_digest, module.value.contains('@')) {
        (true, _) => "is a digest; only paths are supported so far",
        (_, true) => "is a `name@version`; only paths are supported so far",
        _ => "is not the path of a `.wasm` file",
    };
    let message = format!("the module `{}` {what}", module.value.escape_debug());
    let hint = "write a path relative to the pipeline file, such as `\"../target/modules/fraud.wasm\"`";
    reader.report(code::BAD_MODULE, module.place, message, hint);
    None
}

/// JSON text of `config`; `{}` when there is none.
fn config(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Spanned<String>> {
    if reader.item(section, "config").is_none() {
        return Some(Spanned { value: "{}".to_owned(), place: Place::START });
    }
    let Spanned { value: table, place } = reader.table(section, "config")?;
    match json_text(table) {
        Ok(value) => Some(Spanned { value, place }),
        Err(error) => {
            let place = reader.place(error.offset);
            let message = format!("`config` holds `{}`, which JSON cannot", error.value);
            reader.report(code::BAD_CONFIG, place, message, "leave it out or write it as a string");
            None
        }
    }
}
