//! A pipeline whose streams are in the domain of a leaf node, worked on from the hub.

use std::time::{Duration, Instant};

use pelton_broker::testing::Server;
use pelton_broker::{Broker, ConnectOptions, Log, LogOptions, ProvisionOptions, Target, lease_holder, tail, up};
use pelton_engine::epoch::{Channel, Records};
use pelton_engine::log::{Request, Response};

use crate::rig::{FIRST, fence_after, first_epoch, next_epoch, plan, read, read_part, reset, save, stored, survey};

/// Connected to the hub, working in the leaf's domain.
async fn across(hub: &Server) -> Broker {
    let options =
        ConnectOptions { servers: vec![hub.url()], domain: Some("leaf".to_string()), ..ConnectOptions::default() };
    Broker::connect(&options).await.expect("connected")
}

async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = ask().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_at_the_hub_works_in_the_domain_of_a_leaf() {
    let (hub, leaf) = Server::start_leaf();
    let broker = across(&hub).await;
    eventually("the leaf is connected", async || broker.context().query_account().await.ok()).await;
    let plan = plan(1);
    let made = up(&broker, &plan, &ProvisionOptions::default()).await.expect("made");
    assert_eq!((made.created.len(), made.drift), (5, vec![]));
    let at_leaf = leaf.connect().await.expect("connected");
    for idx in 0..10 {
        let publish = at_leaf.context().publish("plays.in.a", format!("e{idx}").into()).await.expect("sent");
        publish.await.expect("stored");
    }

    let log = Log::new(&broker, Target::new(&plan, 0), LogOptions::default());
    let held = eventually("a lease is held", async || match log.perform(Request::AcquireLease).await {
        Response::LeaseHeld { revision } => Some(revision),
        Response::Missing { .. } | Response::Unavailable(_) => None,
        other => panic!("{other:?}"),
    })
    .await;
    let renewed = log.perform(Request::RenewLease { revision: held }).await;
    assert!(matches!(renewed, Response::LeaseHeld { revision } if revision == held), "{renewed:?}");
    assert!(lease_holder(&at_leaf, "fraud", 0).await.expect("read").is_some(), "it is in the leaf");

    reset(&log, 1).await;
    read(&log, 10, 100).await.assert_whole(1, 10);
    let mut records = Records::default();
    records.push(Channel::Output(0), b"out.alerts.u1", b"", b"first");
    let first = first_epoch(records, vec![1; 1000]);
    let sequence = stored(&log, &first, FIRST).await;
    let state: Vec<u8> = (0..1_000_000u32).map(|idx| (idx ^ (idx >> 8)) as u8).collect();
    let saved = save(&log, &first, sequence, [b"core", &state]).await;
    assert!(matches!(saved, Response::SnapshotSaved), "{saved:?}");
    let second = next_epoch(&first, Records::default(), vec![2; 1000]);
    let end = stored(&log, &second, fence_after(&first, sequence)).await;
    let changes = log.perform(Request::Changes { after: sequence, up_to: end }).await;
    assert!(matches!(&changes, Response::Changes(changes) if changes.len() == 1), "{changes:?}");

    let manifest = match log.perform(Request::FindSnapshot { epoch_max: 2 }).await {
        Response::SnapshotFound(Some(found)) => found,
        other => panic!("{other:?}"),
    };
    assert!(read_part(&log, &manifest.sections[1].parts[0]).await == Ok(state));

    log.perform(Request::Ack { sequence: 10 }).await;
    eventually("the acknowledgement has arrived", async || {
        (survey(&log, None, None).await.ack_floor == 10).then_some(())
    })
    .await;
    let mut output = tail(&at_leaf, "ALERTS", ">", Some(1)).await.expect("tail");
    let message = output.next().await.expect("open").expect("a message");
    assert_eq!(message.subject.as_str(), "fraud.alerts.u1");
    let released = log.perform(Request::ReleaseLease { revision: held }).await;
    assert!(matches!(released, Response::LeaseReleased), "{released:?}");
    assert_eq!(lease_holder(&broker, "fraud", 0).await.expect("read"), None);
}
