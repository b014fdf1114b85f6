//! A large state through a slow link. `PELTON_STATE_MIB` and `PELTON_LINK_MBITS` make it larger or slower: 2048 and 100
//! are the largest state that a partition may have, and a link that takes three minutes for it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use pelton_broker::{Broker, ConnectOptions, Log, LogOptions, Target};
use pelton_engine::epoch::Records;
use pelton_engine::log::{Request, Response};
use pelton_engine::partition::Config;

use crate::rig::{FIRST, Rig, first_epoch, save, stored};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// Forwards connections to a server; what comes back is throttled. Gives the address to connect to.
fn throttled(server: &str, bytes_per_second: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let server = server.trim_start_matches("nats://").to_string();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(broker)) = (client, TcpStream::connect(&server)) else { return };
            let (to_client, to_broker) = (client.try_clone().expect("a socket"), broker.try_clone().expect("a socket"));
            std::thread::spawn(move || forward(client, to_broker, None));
            std::thread::spawn(move || forward(broker, to_client, Some(bytes_per_second)));
        }
    });
    format!("nats://{address}")
}

fn forward(mut from: TcpStream, mut to: TcpStream, bytes_per_second: Option<u64>) {
    let mut buffer = [0; 16 << 10];
    let (began, mut sent) = (Instant::now(), 0);
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
        if let Some(rate) = bytes_per_second {
            // An idle link saves nothing up.
            let idle = (began.elapsed().as_secs_f64() * rate as f64) as u64;
            sent = u64::max(sent, idle.saturating_sub(64 << 10)) + read as u64;
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_state_is_read_through_a_slow_link() {
    let (bytes, rate) = (setting("PELTON_STATE_MIB", 12) << 20, setting("PELTON_LINK_MBITS", 100) * 125_000);
    let rig = Rig::new(1).await;
    let log = rig.log(0);
    let epoch = first_epoch(Records::default(), vec![1; 100]);
    let sequence = stored(&log, &epoch, FIRST).await;
    let state: Vec<u8> = (0..bytes).map(|idx| (idx ^ (idx >> 8) ^ (idx >> 16)) as u8).collect();
    let saved = save(&log, &epoch, sequence, [b"core", &state]).await;
    assert!(matches!(saved, Response::SnapshotSaved), "{saved:?}");

    let servers = vec![throttled(&rig.server.url(), rate)];
    let broker = Broker::connect(&ConnectOptions { servers, ..ConnectOptions::default() }).await.expect("connected");
    let log = Log::new(&broker, Target::new(&rig.plan, 0), LogOptions::default());
    // What the protocol would do: an answer that takes longer is given up.
    let patience = Duration::from_millis(Config::new(0, 0).answer_ms);
    let ask = async |request| tokio::time::timeout(patience, log.perform(request)).await.expect("answered in time");
    let manifest = match ask(Request::FindSnapshot { epoch_max: 1 }).await {
        Response::SnapshotFound(Some(found)) => found,
        other => panic!("{other:?}"),
    };
    let (mut read, began) = (Vec::new(), Instant::now());
    for part in &manifest.sections[1].parts {
        let start = read.len() as u64;
        while (read.len() as u64) < start + part.bytes {
            let at = read.len() as u64;
            match ask(Request::ReadPart { part: part.clone(), offset: at - start }).await {
                Response::PartRead(more) => read.extend(more),
                // As the protocol does: the same bytes again, nothing starts over.
                Response::Unavailable(reason) => println!("at {at} of {bytes} bytes: {reason}"),
                other => panic!("at {at} of {bytes} bytes: {other:?}"),
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} MiB in {seconds:.1} s: {:.1} MB/s of {:.1}",
        bytes >> 20,
        read.len() as f64 / seconds / 1e6,
        rate as f64 / 1e6
    );
    assert!(read == state);
}
