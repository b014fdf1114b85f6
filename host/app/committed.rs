//! Whether a pipeline can go on from what is committed, asked before any work: a standby learns it when it starts, not when
//! it has to take over.

use pelton_broker::{Broker, Log, LogOptions, Target};
use pelton_engine::codes::HaltCode;
use pelton_engine::effects::Room;
use pelton_engine::log::{Request, Response, StoredMarker, Survey};
use pelton_engine::partition::{Decision, Halted, decide, is_compatible};
use pelton_engine::step::{Engine, Envelope, HashKey};

use crate::cli::failure::Failure;
use crate::pipeline::Pipeline;
use crate::run::engine;

/// Compares the pipeline with the newest marker of some partitions. What cannot be known now, because the
/// broker or a module is not ready, recovery finds.
///
/// # Errors
/// What differs, both sides; a marker of another version of Pelton.
pub(crate) async fn check(broker: &Broker, pipeline: &Pipeline, partitions: &[u32]) -> Result<(), Failure> {
    // One for all: what is compared is the same in each partition.
    let source = &pipeline.plan.source.stream;
    let make = |guests| engine(pipeline, guests, 0, source, Room::default(), Envelope::Headers, HashKey::default());
    let Ok(engine) = pipeline.guests().and_then(make) else { return Ok(()) };
    for &partition in partitions {
        let log = Log::new(broker, Target::new(&pipeline.plan, partition), LogOptions::default());
        let survey = Request::Survey { input_sequence: None, epoch: None, history: false };
        let halted = match log.perform(survey).await {
            Response::OtherFormat(text) => Err(Halted { code: HaltCode::PipelineStreamFormat, evidence: text }),
            Response::Survey(survey) => compare(&log, &survey, partition, &engine).await,
            _ => Ok(()),
        };
        if let Err(Halted { code, evidence }) = halted {
            let hint = "nothing was touched; README says for each code what happened and what to do";
            let name = &pipeline.plan.name;
            return Err(Failure::halted(format!("{name}, partition {partition}: {code}: {evidence}")).hint(hint));
        }
    }
    Ok(())
}

async fn compare(log: &Log, survey: &Survey, partition: u32, engine: &Engine) -> Result<(), Halted> {
    let Some(StoredMarker { marker, .. }) = &survey.marker else { return Ok(()) };
    // As a host without a local state would find it.
    if let Decision::Halt(halted) = decide(None, survey, &mut |_, _| false) {
        return Err(halted);
    }
    if is_compatible(marker, partition, engine, None).is_ok() {
        return Ok(());
    }
    // A snapshot, where there is one, tells what differs.
    let snapshot = match log.perform(Request::FindSnapshot { epoch_max: marker.epoch }).await {
        Response::SnapshotFound(found) => found,
        _ => None,
    };
    is_compatible(marker, partition, engine, snapshot.as_deref())
}
