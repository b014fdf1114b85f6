//! Passwords, tokens and seeds: used wherever they are written, shown nowhere.

use pelton_broker::testing::Server;

use crate::process::{finish, pelton};
use crate::scene::Scene;

const SEED: &str = "SUAOL2ZSWRL4PTWVVU5NW4T4MLQH4DQZ6PZMH4ZC3OXYB4PMEFHZZ6IISM";
const NOBODY: &str = "nats://127.0.0.1:1";

/// What a command says on both ways out.
#[track_caller]
fn said(scene: &Scene, env: &[(&str, &str)], args: &[&str]) -> String {
    let mut command = pelton(args);
    command.env("XDG_CONFIG_HOME", scene.path("config")).envs(env.iter().copied());
    let said = finish(&mut command);
    format!("{}{}", said.stdout, said.stderr)
}

#[track_caller]
fn assert_hidden(what: &str, text: &str) {
    for secret in ["s3cret", "5318008", &SEED[..20].to_lowercase()] {
        assert!(!text.to_lowercase().contains(secret), "{what} shows a secret:\n{text}");
    }
    assert!(!text.contains("panicked"), "{what}:\n{text}");
}

#[test]
fn no_secret_is_shown_whatever_is_wrong_with_it() {
    let scene = Scene::new();
    let pipeline = scene.single("zoo", "echo", "");
    std::fs::create_dir_all(scene.path("config/nats/context")).unwrap();
    for (name, text) in [
        ("number", r#"{"token": 5318008531800853}"#),
        ("list", r#"{"password": ["S3CRET"], "user": "u"}"#),
        ("address", r#"{"url": "nats://u:S3CRET@127.0.0.1:1", "token": "S3CRET"}"#),
        ("port", r#"{"url": "nats://u:S3CRET@127.0.0.1:x"}"#),
        ("broken", r#"{"token": "S3CRET" "user": 1}"#),
    ] {
        scene.write(&format!("config/nats/context/{name}.json"), text);
    }
    let creds = "-----BEGIN NATS USER JWT-----\nS3CRET\n------END NATS USER JWT------\n";
    let (creds_file, seed_file) = (scene.write("broken.creds", creds), scene.write("seed", "xS3CRET\n"));
    let (lower, quoted, dot) = (SEED.to_lowercase(), format!("\"{SEED}\""), format!("{SEED}."));
    let cases: [&[(&str, &str)]; 24] = [
        &[("NATS_URL", "nats://u:S3CRET@127.0.0.1:1")],
        &[("NATS_URL", "nats://S3CRET@127.0.0.1:1")],
        &[("NATS_URL", "u:S3CRET@127.0.0.1:1")],
        &[("NATS_URL", "nats://u:S3CRET@:x")],
        &[("NATS_URL", "ws://u:S3CRET@127.0.0.1:1")],
        &[("NATS_URL", "nats://127.0.0.1:1,nats://u:S3CRET@127.0.0.1:2")],
        &[("NATS_URL", "nats://u:S3,CRET@127.0.0.1:1")],
        &[("NATS_URL", "nats://u:p@S3CRET@127.0.0.1:1")],
        &[("NATS_URL", NOBODY), ("NATS_NKEY", &lower)],
        &[("NATS_URL", NOBODY), ("NATS_NKEY", &quoted)],
        &[("NATS_URL", NOBODY), ("NATS_NKEY", &dot)],
        &[("NATS_URL", NOBODY), ("NATS_NKEY", &SEED[..55])],
        &[("NATS_URL", NOBODY), ("NATS_NKEY", SEED)],
        &[("NATS_URL", NOBODY), ("NATS_NKEY", &seed_file)],
        &[("NATS_URL", NOBODY), ("NATS_CREDS", &creds_file)],
        &[("NATS_URL", NOBODY), ("NATS_CREDS", creds)],
        &[("NATS_URL", NOBODY), ("NATS_USER", "S3CRET")],
        &[("NATS_URL", NOBODY), ("NATS_PASSWORD", "S3CRET")],
        &[("NATS_URL", NOBODY), ("NATS_TOKEN", "S3CRET"), ("NATS_MONITOR", "http://u:S3CRET@127.0.0.1:1")],
        &[("NATS_CONTEXT", "number")],
        &[("NATS_CONTEXT", "list")],
        &[("NATS_CONTEXT", "address")],
        &[("NATS_CONTEXT", "port")],
        &[("NATS_CONTEXT", "broken")],
    ];
    let state = scene.arg("state");
    for env in cases {
        for args in [
            &["run", &pipeline, "--state-dir", &state, "--wait", "0s", "--log", "trace"][..],
            &["doctor", "--state-dir", &state, "--json", "--log", "trace", "--log-format", "json"],
            &["doctor", "--help"],
        ] {
            assert_hidden(&format!("{env:?} {args:?}"), &said(&scene, env, args));
        }
    }
}

#[test]
fn no_secret_among_wrong_arguments_is_shown() {
    let scene = Scene::new();
    let url = "nats://u:S3CRET@127.0.0.1:1";
    for args in [
        &["up", "p.toml", url][..],
        &["up", "p.toml", "u:S3CRET@h"],
        &["up", "p.toml", "--servers", url],
        &["up", "p.toml", "--servers=nats://u:S3CRET@h"],
        &["up", "p.toml", "--nats://u:S3CRET@h"],
        &["up", "p.toml", "--server", url, "--nonsense"],
        &["up", "p.toml", "--log-format", url],
        &["run", "p.toml", "--listen", url],
        &["run", "p.toml", "--partitions", url],
        &[url],
    ] {
        let text = said(&scene, &[], args);
        assert!(text.contains("error: "), "{args:?}: {text}");
        assert_hidden(&format!("{args:?}"), &text);
    }
}

#[test]
fn credentials_in_an_address_let_a_pipeline_run() {
    let scene = Scene::new();
    let server = Server::start_with("authorization { user: \"a@b\", password: \"S3CRET\" }");
    let pipeline = scene.single("zoo", "echo", "");
    let url = server.url().replace("nats://", "nats://a%40b:S3CRET@");
    let state = scene.arg("state");
    for args in [
        &["up", &pipeline, "--log", "trace"][..],
        &["run", &pipeline, "--state-dir", &state, "--exit-when-caught-up", "--listen", "off", "--log", "trace"],
        &["status", &pipeline, "--json"],
        &["tail", &pipeline, "--no-follow"],
    ] {
        let said = finish(pelton(args).env("NATS_URL", &url)).code(0);
        assert_hidden(&format!("{args:?}"), &format!("{}{}", said.stdout, said.stderr));
    }
    let doctor = finish(pelton(&["doctor", &pipeline, "--state-dir", &state, "--json"]).env("NATS_URL", &url));
    assert_hidden("doctor", &format!("{}{}", doctor.stdout, doctor.stderr));
    assert!(doctor.stdout.contains("all that a host needs"), "{}", doctor.stdout);
}
