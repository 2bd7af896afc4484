use super::super::super::Error;
use super::super::super::push_certificates::{TakenOver, take_over};
use super::Run;
use crate::model::Secret;

/// Takes the push certificates over. Nobody is woken for them: the devices still go to the other server.
pub(super) async fn take(run: &mut Run<'_>) -> Result<(), Error> {
    for found in run.source.push_certificates().await? {
        // A key without a line's end before it is read too: both are PEM.
        let file = Secret::new(format!("{}\n{}\n", found.certificate, found.key.expose()).into_bytes());
        let taken = take_over(run.app, run.actor, &found.topic, file, run.dry_run).await;
        let tally = &mut run.report.push_certificates;
        match taken {
            Ok(TakenOver::Added) => tally.added += 1,
            Ok(TakenOver::Updated) => tally.updated += 1,
            Ok(TakenOver::Unchanged) => tally.unchanged += 1,
            Ok(TakenOver::Older) => {
                tally.skipped += 1;
                run.report.note("push certificate", "the one that is here is newer", &found.topic);
            }
            Err(Error::Invalid { detail, .. }) => {
                tally.skipped += 1;
                run.report.note("push certificate", detail, &found.topic);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
