//! The built program: what it says to mistakes, and a server's life from start to restart.

use std::{
    fs,
    process::{Command, Output},
};

use crate::running::{Running, allod};

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn mistakes_exit_with_2_and_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("allod.toml");
    fs::write(&file, "[server]\nnmae = \"a.example\"\n").unwrap();
    let (code, _, errors) = run(allod().args(["check-config", "--config"]).arg(&file));
    assert_eq!(code, Some(2));
    let expected =
        format!("{}:2: section [server] has no option \"nmae\"; did you mean \"name\"?", file.display());
    assert!(errors.contains(&expected), "{errors}");

    fs::write(&file, "[server]\nname = \"a.example\"\n[logging]\nfilter = \"a=b=c\"\n").unwrap();
    assert_eq!(run(allod().args(["check-config", "--config"]).arg(&file)).0, Some(2));

    fs::write(&file, "[server]\nname = \"a.example\"\n[listeners]\nclient = [\"0.0.0.0:0\"]\n").unwrap();
    assert_eq!(run(allod().args(["check-config", "--config"]).arg(&file)).0, Some(0));
    let (code, _, errors) = run(allod().args(["serve", "--dev", "--config"]).arg(&file));
    assert_eq!(code, Some(2));
    assert!(errors.contains("loopback"), "{errors}");

    assert_eq!(run(allod().args(["serve", "--prot", "1"])).0, Some(2));
}

#[test]
fn a_generated_configuration_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("allod.toml");
    for preset in ["internal", "partners", "open"] {
        let (code, text, _) =
            run(allod().args(["generate-config", "--preset", preset, "--server-name", "a.example"]));
        assert_eq!(code, Some(0));
        fs::write(&file, text).unwrap();
        let (code, said, _) = run(allod().args(["check-config", "--config"]).arg(&file));
        assert_eq!((code, said.ends_with("the server would be a.example.\n")), (Some(0), true), "{said}");
    }
}

#[test]
fn accounts_made_on_a_running_server_outlive_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let user = |arguments: &[&str]| run(allod().arg("user").args(arguments).arg("--socket").arg(&socket));

    let (code, _, errors) = user(&["list"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("allod serve"), "{errors}");

    let server = Running::start(folder.path());
    let (code, said, _) = user(&["create", "anna", "--admin"]);
    assert_eq!(code, Some(0));
    assert!(said.starts_with("Made @anna:localhost, an administrator.\nPassword: "), "{said}");
    let (code, _, errors) = user(&["create", "anna"]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("taken"), "{errors}");
    assert_eq!(user(&["reset-password", "nobody"]).0, Some(1));
    server.stop();

    let server = Running::start(folder.path());
    assert_eq!(user(&["list"]).1, "@anna:localhost admin\n");
    assert_eq!(user(&["reset-password", "anna"]).0, Some(0));
    server.stop();
}
