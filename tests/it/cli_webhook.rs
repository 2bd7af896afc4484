//! `muster webhook`, beside a server that runs.

use crate::support::program::Installation;

both_fresh_databases! {
    async fn a_webhook_is_made_listed_paused_and_removed(made: Installation) {
        let add = ["webhook", "add", "--name", "inventory", "--url", "https://hooks.example.org/mdm?token=hidden"];
        let added = made.run(&add).with(0);
        assert!(added.stdout.starts_with("whsec_") && added.stdout.lines().count() == 1, "{}", added.stdout);
        assert!(added.stderr.contains("cloudevents; its secret is shown only now"), "{}", added.stderr);
        let listed: serde_json::Value =
            serde_json::from_str(&made.run(&["webhook", "list", "--json"]).with(0).stdout).unwrap();
        let id = listed[0]["id"].as_str().unwrap();
        assert_eq!((&listed[0]["signed"], &listed[0]["waiting"]), (&true.into(), &0.into()));
        assert!(!listed.to_string().contains("whsec_"));
        let table = made.run(&["webhook", "list"]).with(0).stdout;
        assert!(table.contains("inventory") && table.contains("works") && !table.contains("hidden"), "{table}");

        made.run(&["webhook", "pause", id]).with(0);
        let table = made.run(&["webhook", "list"]).with(0).stdout;
        assert!(table.contains("paused 20"), "{table}");
        assert!(made.run(&["webhook", "show", id]).with(0).stdout.contains("paused by"));
        made.run(&["webhook", "resume", id]).with(0);
        assert_eq!(made.run(&["webhook", "dead", id]).with(0).stdout, "no event was given up\n");
        assert_eq!(made.run(&["webhook", "replay", id, "--all"]).with(0).stdout, "0 events are sent again\n");
        made.run(&["webhook", "replay", id]).with(2);
        made.run(&["webhook", "remove", id]).with(0);
        assert_eq!(made.run(&["webhook", "list"]).with(0).stdout, "there are no webhooks\n");
        let gone = made.run(&["webhook", "show", id]).with(1);
        assert!(gone.stderr.contains("there is no webhook"), "{}", gone.stderr);
    }

    async fn what_is_wrong_with_a_webhook_is_said(made: Installation) {
        let with = |more: &[&'static str]| {
            let mut line = vec!["webhook", "add", "--name", "x"];
            line.extend(more);
            made.run(&line)
        };
        let wrong = with(&["--url", "http://10.0.0.1/", "--topic", "mdm.Connect"]).with(1);
        assert!(wrong.stderr.contains("/url: ") && wrong.stderr.contains("/topics/0: "), "{}", wrong.stderr);
        let wrong = with(&["--url", "https://hooks.example.org/", "--form", "xml"]).with(2);
        assert!(wrong.stderr.contains("nanomdm or cloudevents"), "{}", wrong.stderr);
        let wrong = with(&["--url", "https://hooks.example.org/", "--secret-file", "/nowhere/secret"]).with(1);
        assert!(wrong.stderr.contains("cannot read /nowhere/secret"), "{}", wrong.stderr);
    }
}
