//! Hosts that cannot work, work slowly or come back: others take over, and what an operator sees is true.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::broker::Broker;
use crate::dump::Dump;
use crate::process::{Process, Said, finish, pelton, shell, until};
use crate::scene::Scene;

const PORTION: u64 = 1_000;

/// A pipeline whose stage forwards everything, its broker, and hosts with a folder each.
struct Site {
    scene: Scene,
    broker: Broker,
    pipeline: String,
    published: u64,
}

impl Site {
    fn new(lease: &str) -> Site {
        let (scene, broker) = (Scene::new(), Broker::start());
        let pipeline = scene.fraud();
        let limits = "\n[limits]\nepoch_max_events = 200\n";
        scene.write("fraud.toml", [scene.read("fraud.toml"), limits.as_bytes().to_vec()].concat());
        finish(&mut broker.pelton(&["up", &pipeline, "--lease", lease])).code(0);
        Site { scene, broker, pipeline, published: 0 }
    }

    fn command(&self, state: &Path, more: &[&str]) -> Command {
        let state = state.to_str().expect("temporary folders have plain names");
        let mut args = vec!["run", &self.pipeline, "--state-dir", state, "--listen", "127.0.0.1:0"];
        args.extend(more);
        self.broker.pelton(&args)
    }

    fn host(&self, state: &str) -> Process {
        Process::start(&mut self.command(&self.scene.path(state), &[]))
    }

    /// A host that waits for the lease of another one.
    fn standby(&self, state: &str) -> Process {
        let mut host = self.host(state);
        host.wait_for("standing by");
        host
    }

    fn publish(&mut self) {
        let (count, seed) = (PORTION.to_string(), self.published.to_string());
        let args = [
            "generate",
            "plays",
            "--publish",
            "--pipeline",
            &self.pipeline,
            "--farms",
            "1",
            "--events",
            &count,
            "--seed",
            &seed,
        ];
        finish(&mut self.broker.pelton(&args)).code(0);
        self.published = self.broker.held("PLAYS");
    }

    fn committed(&self) -> u64 {
        let watcher = self.broker.watcher();
        until("an answer of the broker", || self.broker.committed(&watcher, "fraud"))
    }

    /// Waits until all that was published is committed.
    #[track_caller]
    fn work_off(&self, hosts: &[&Process]) {
        let watcher = self.broker.watcher();
        let done = || self.broker.committed(&watcher, "fraud").is_some_and(|committed| committed == self.published);
        let words = || hosts.iter().map(|host| host.stderr()).collect::<Vec<_>>().join("\n--\n");
        let deadline = std::time::Instant::now() + crate::process::PATIENCE;
        while !done() {
            let now = std::time::Instant::now();
            assert!(now < deadline, "{} of {} events:\n{}", self.committed(), self.published, words());
            std::thread::sleep(crate::process::GLANCE);
        }
        Dump::read(&self.broker, "fraud").assert_chain(self.published);
    }
}

/// Where a host serves its metrics.
fn address(host: &Process) -> String {
    let words = host.stderr();
    let (_, rest) = words.split_once("metrics on http://").expect("a host says where it serves");
    rest.split_once('/').expect("an address and a path").0.to_owned()
}

/// What a host serves under this path: status line and body.
pub(crate) fn get(host: &Process, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address(host)).expect("a host serves");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// The only partition as `/healthz` shows it, and the status line.
fn health(host: &Process) -> (String, Value) {
    let (head, body) = get(host, "/healthz");
    let mut body: Value = serde_json::from_str(&body).expect("health is JSON");
    (head, body["partitions"][0].take())
}

/// A metric of the only partition.
fn metric(host: &Process, name: &str) -> f64 {
    let (_, body) = get(host, "/metrics");
    let line = body.lines().find(|line| line.starts_with(&format!("{name}{{"))).expect("the metric is there");
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a metric has a number")
}

/// A small file system over a folder; the machine may not allow that.
struct Volume<'a>(&'a Path);

impl Volume<'_> {
    fn mount<'a>(path: &'a Path, size: &str) -> Option<Volume<'a>> {
        std::fs::create_dir_all(path).expect("a temporary folder is writable");
        let done = run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs"], path);
        if !done {
            println!("skipped: no small file system can be mounted here");
        }
        done.then_some(Volume(path))
    }

    fn resize(&self, size: &str) {
        assert!(run("mount", &["-o", &format!("remount,size={size}")], self.0), "a mount of ours can be resized");
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        run("umount", &["-l"], self.0);
    }
}

fn run(program: &str, args: &[&str], path: &Path) -> bool {
    Command::new(program).args(args).arg(path).output().is_ok_and(|output| output.status.success())
}

/// The folder cannot be made again: something else lies there.
#[test]
fn a_host_whose_state_folder_is_gone_for_good_hands_over() {
    let mut site = Site::new("4s");
    let mut first = site.host("first");
    site.publish();
    site.work_off(&[&first]);
    let second = site.standby("second");
    std::fs::remove_dir_all(site.scene.path("first")).expect("a state folder can be deleted");
    site.scene.write("first", "not a folder");
    site.publish();
    site.work_off(&[&first, &second]);
    assert!(second.stderr().contains("running"), "{}", second.stderr());
    first.wait_for("giving the lease back");
}

#[test]
fn a_lone_host_whose_state_folder_is_deleted_makes_it_again() {
    let mut site = Site::new("4s");
    let host = site.host("state");
    site.publish();
    site.work_off(&[&host]);
    std::fs::remove_dir_all(site.scene.path("state")).expect("a state folder can be deleted");
    site.publish();
    site.work_off(&[&host]);
    assert!(site.scene.path("state/p0/CURRENT").is_file());
}

#[test]
fn a_host_with_a_full_disk_says_so_and_hands_over() {
    let mut site = Site::new("4s");
    let path = site.scene.path("small");
    // More than what a store always keeps free, then less.
    let Some(volume) = Volume::mount(&path, "1200m") else { return };
    let mut first = Process::start(&mut site.command(&path.join("state"), &[]));
    site.publish();
    site.work_off(&[&first]);
    volume.resize("300m");
    let second = site.standby("second");
    site.publish();
    site.work_off(&[&first, &second]);
    assert!(second.stderr().contains("running"), "{}", second.stderr());
    first.wait_for("are needed");
    let (head, health) = health(&first);
    assert!(head.contains("200") && health["status"] == "degraded", "{head} {health}");
    let repeated = first.stderr().matches("was set aside").count();
    assert_eq!(repeated, 0, "nothing was set aside:\n{}", first.stderr());
}

#[test]
fn while_the_disk_is_full_lag_and_health_are_true() {
    let mut site = Site::new("4s");
    let path = site.scene.path("small");
    let Some(volume) = Volume::mount(&path, "1200m") else { return };
    let host = Process::start(&mut site.command(&path.join("state"), &[]));
    site.publish();
    site.work_off(&[&host]);
    until("no lag", || (metric(&host, "pelton_lag_events") == 0.0).then_some(()));
    volume.resize("300m");
    let committed = site.committed();
    site.publish();
    // At most one epoch is committed before it is noticed that it cannot be stored.
    let waiting = (site.published - committed) as f64;
    until("lag", || (metric(&host, "pelton_lag_events") >= waiting - 200.0).then_some(()));
    until("age", || (metric(&host, "pelton_lag_seconds") > 0.0).then_some(()));
    let shown = until("a reason", || {
        let (_, health) = health(&host);
        let told = health["evidence"].as_str().is_some_and(|text| text.contains("are needed"));
        (told && health["status"] == "degraded" && health["lag_events"].as_u64() > Some(0)).then_some(health)
    });
    assert!(shown["position"].as_u64() > Some(0) && shown["epoch"].as_u64() > Some(0), "{shown}");
    assert!(shown["seconds_since_commit"].as_f64().is_some(), "{shown}");
    let args = ["status", &site.pipeline, "--json"];
    let report: Value = serde_json::from_str(&finish(&mut site.broker.pelton(&args)).code(0).stdout).expect("JSON");
    assert_eq!(report["partitions"][0]["lag_events"].as_f64(), Some(metric(&host, "pelton_lag_events")), "{report}");

    volume.resize("1200m");
    site.work_off(&[&host]);
    until("no lag", || (metric(&host, "pelton_lag_events") == 0.0).then_some(()));
    until("health", || (health(&host).1["status"] == "ok").then_some(()));
}

/// The lease would last for longer than this test may: only a host that is known again goes on before.
#[test]
fn a_lone_host_that_was_killed_goes_on_without_waiting_for_its_lease() {
    let mut site = Site::new("10m");
    let mut host = site.host("state");
    site.publish();
    site.work_off(&[&host]);
    assert!(host.kill());
    let host = site.host("state");
    site.publish();
    site.work_off(&[&host]);
}

/// The third epoch takes more than two leases to be stored.
#[test]
fn a_busy_host_keeps_its_lease() {
    let mut site = Site::new("4s");
    let mut first =
        Process::start(site.command(&site.scene.path("first"), &[]).env("PELTON_TEST_LINGER", "apply:3:10000"));
    first.wait_until_running();
    let second = site.standby("second");
    site.publish();
    first.wait_for("lingered");
    site.work_off(&[&first, &second]);
    assert!(!second.stderr().contains("running pipeline"), "{}", second.stderr());
    assert!(!first.stderr().contains("lease taken"), "{}", first.stderr());
    assert_eq!((metric(&first, "pelton_partition_working"), metric(&second, "pelton_partition_working")), (1.0, 0.0));
    // What a host that stands by shows of the partition is as true as what the other one shows.
    until("no lag", || (metric(&second, "pelton_lag_events") == 0.0).then_some(()));
    assert_eq!(health(&second).1["position"], health(&first).1["position"]);
}

#[test]
fn a_host_waits_for_a_broker_that_is_not_there_yet() {
    let mut site = Site::new("4s");
    site.publish();
    site.broker.kill_node(0);
    let mut host = site.host("state");
    host.wait_for("the broker is not ready, trying again");
    site.broker.restart_node(0);
    site.work_off(&[&host]);
    host.signal("TERM");
    host.wait().code(0);
}

#[test]
fn a_signal_ends_a_host_well_before_it_has_found_its_broker() {
    let scene = Scene::new();
    let pipeline = scene.fraud();
    let state = scene.arg("state");
    let args = ["run", &pipeline, "--state-dir", &state, "--server", "nats://127.0.0.1:1", "--wait", "1h"];
    for signal in ["TERM", "INT"] {
        let mut host = Process::start(&mut pelton(&args));
        host.wait_for("the broker is not ready, trying again for up to 3600 s");
        host.signal(signal);
        let said: Said = host.wait();
        said.code(0).says(&["stopped before the broker was found"]);
    }
}

/// More clients than the host may have files hold half a request each, while the broker goes away and comes back.
#[test]
fn clients_of_the_metrics_cannot_keep_a_host_from_its_work() {
    const FILES: usize = 256;
    let mut site = Site::new("4s");
    let command = site.command(&site.scene.path("state"), &[]);
    let mut host = Process::start(&mut shell(&format!("ulimit -n {FILES}"), &command));
    host.wait_until_running();
    let before = host.open_files();
    let half = |_| {
        let mut stream = TcpStream::connect(address(&host)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nx: ").ok()?;
        Some(stream)
    };
    let held: Vec<_> = (0..FILES + 50).map_while(half).collect();
    assert!(held.len() > 32, "only {} connections were made", held.len());
    let taken = host.open_files().saturating_sub(before);
    assert!(taken <= 32 + 8, "{taken} files are open for them");
    site.publish();
    site.work_off(&[&host]);
    site.broker.kill_and_restart(500);
    site.publish();
    site.work_off(&[&host]);
    // They are cut one after the other, and whoever waits behind them is served.
    assert!(get(&host, "/healthz").0.contains("200"));
    drop(held);
}
