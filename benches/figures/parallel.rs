//! Work on all cores.

use crate::Result;

/// The results of `work` on each of `items`, in their order.
pub fn on_all_cores<T, R, E>(items: &[T], work: impl Fn(&T) -> std::result::Result<R, E> + Sync) -> Result<Vec<R>>
where
    T: Sync,
    R: Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let cores = std::thread::available_parallelism()?.get();
    let share = items.len().div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = items
            .chunks(share)
            .map(|chunk| scope.spawn(move || chunk.iter().map(work).collect::<std::result::Result<Vec<_>, E>>()))
            .collect();
        let mut all = Vec::with_capacity(items.len());
        for thread in running {
            let part = thread.join().map_err(|_| "a thread ended by a fault")?;
            all.extend(part.map_err(Into::into)?);
        }
        Ok(all)
    })
}
