//! What every module has, whatever its world; and the one configured instance of a component.

use std::any::Any;
use std::cell::RefCell;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::field::Fields;
use crate::raw;
use crate::raw::Shape;

/// What every module has, whatever its world.
pub trait Module: Sized + 'static {
    /// The fields that it reads from every event; `()` when it reads none,
    /// [`fields::Configured`](crate::fields::Configured) when its configuration decides them.
    type Fields: Fields;
    /// Read from the `config` of the pipeline's stage; the default when the stage has none.
    type Config: DeserializeOwned + Default;
    /// Whether events carry their original bytes.
    const PAYLOAD: bool = false;
    /// Whether events carry their headers.
    const HEADERS: bool = false;
    /// Output ports; the first one is the main one.
    const PORTS: &'static [&'static str] = &["out"];
    /// Counters of its own, which the host commits with the results: `[a-z0-9_]`, at most 32.
    const COUNTERS: &'static [&'static str] = &[];
    /// Raise it when the shape of stored state changes.
    const STATE_VERSION: u32 = 0;
    /// JSON Schema of the configuration, for tools.
    const CONFIG_SCHEMA: Option<&'static str> = None;

    /// Makes the rule. Called once, before anything else.
    ///
    /// # Errors
    /// A text for the author of the pipeline; it refuses the pipeline.
    fn configure(config: Self::Config) -> Result<Self, String>;

    /// What it reads and gives: what the constants and [`Module::Fields`] say, unless its configuration decides. The same
    /// configuration gives the same shape.
    fn shape(&self) -> Shape {
        declared::<Self>()
    }
}

/// The shape that the constants and the fields of a module declare.
#[must_use]
pub fn declared<M: Module>() -> Shape {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Shape {
        fields: M::Fields::FIELDS.iter().map(|field| field.to_raw()).collect(),
        lanes: Vec::new(),
        payload: M::PAYLOAD,
        headers: M::HEADERS,
        ports: names(M::PORTS),
        counters: names(M::COUNTERS),
        attributes: Vec::new(),
    }
}

/// Name and version of a module, set by `export!`.
pub trait Identity {
    /// The name of the crate or example.
    const NAME: &'static str;
    /// The version of its package.
    const VERSION: &'static str;
}

/// A rule with its configuration, and the shape that it has by that.
pub(crate) struct Configured<M> {
    pub(crate) rule: M,
    pub(crate) shape: Shape,
}

/// Reads the configuration text and makes the rule.
///
/// # Errors
/// When the text is no configuration of this rule, or the rule refuses it.
pub(crate) fn configured<M: Module>(config: &str) -> Result<Configured<M>, String> {
    let text = config.trim();
    // A stage without `config` sends `{}`, which a rule without settings (`Config = ()`) must take, too.
    let config = if matches!(text, "" | "null" | "{}") {
        M::Config::default()
    } else {
        serde_json::from_str(text).map_err(|error| format!("config does not fit: {error}"))?
    };
    let rule = M::configure(config)?;
    let shape = rule.shape();
    Ok(Configured { rule, shape })
}

/// Implements the interfaces of the contract over a rule. The instance lives in the component.
pub struct Adapter<M>(PhantomData<M>);

impl<M: Module + Identity> raw::meta::Guest for Adapter<M> {
    fn describe() -> raw::Identity {
        raw::Identity {
            name: M::NAME.replace('_', "-"),
            version: M::VERSION.to_owned(),
            state_version: M::STATE_VERSION,
            config_schema: M::CONFIG_SCHEMA.map(str::to_owned),
            attributes: Vec::new(),
        }
    }

    fn configure(config: String) -> Result<Shape, String> {
        report_panics();
        let configured = configured::<M>(&config)?;
        let shape = configured.shape.clone();
        INSTANCE.with(|instance| *instance.borrow_mut() = Some(Box::new(configured)));
        Ok(shape)
    }
}

thread_local! {
    /// The rule of this component. A component has one thread and one rule.
    static INSTANCE: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// Calls the configured rule.
pub(crate) fn with<M: Module, T>(call: impl FnOnce(&Configured<M>) -> T) -> T {
    INSTANCE.with(|instance| {
        let instance = instance.borrow();
        let configured = instance.as_deref().and_then(|module| module.downcast_ref::<Configured<M>>());
        call(configured.expect("the host configures an instance before any other call"))
    })
}

/// Sends the text of a panic to the host's log, which otherwise sees only an unreachable instruction.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| crate::log::error(panic.to_string())));
}
