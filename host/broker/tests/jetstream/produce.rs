//! Publishers of many events: what they do when the broker goes.

use pelton_broker::{BatchProducer, Producer, ProducerError};

use crate::rig::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_counted_when_they_are_stored() {
    let rig = Rig::new(1).await;
    let mut producer = BatchProducer::new(&rig.broker, 100).await.expect("producer");
    for idx in 0..950 {
        producer.publish("plays.in.a".to_string(), format!("e{idx}").into()).await.expect("published");
    }
    assert_eq!(producer.flush().await, Ok(950));
    let info = rig.broker.context().get_stream("PLAYS").await.expect("stream").cached_info().clone();
    assert_eq!(info.state.messages, 950);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_ends_both_publishers() {
    let mut rig = Rig::new(1).await;
    let mut batches = BatchProducer::new(&rig.broker, 10).await.expect("producer");
    let mut single = Producer::new(&rig.broker).await.expect("producer");
    // The batch's answer, and the acks, are under way when the broker dies: they never come.
    rig.server.stop();
    for idx in 0..10 {
        batches.publish("plays.in.a".to_string(), format!("b{idx}").into()).await.expect("sent");
        single.publish("plays.in.a".to_string(), format!("s{idx}").into()).await.expect("sent");
    }
    rig.server.kill();
    rig.server.restart();
    assert_eq!(batches.flush().await, Err(ProducerError::Lost { missing: 10 }));
    assert_eq!(single.flush().await, Err(ProducerError::Lost { missing: 10 }));
}
