//! Functions that make job values, by which jobs are registered.

use crate::handlers::run::Run;
use crate::jobs::new_job::NewJob;

/// A function that makes job values: what `#[job]` leaves.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job",
    note = "put `#[jobkit::job]` on the function"
)]
pub trait JobFn<Args> {
    /// The job it makes.
    type Job: Run;
}

macro_rules! job_fn {
    ($($arg:ident)*) => {
        impl<F, J: Run, $($arg),*> JobFn<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> NewJob<J>,
        {
            type Job = J;
        }
    };
}

job_fn!();
job_fn!(A);
job_fn!(A B);
job_fn!(A B C);
job_fn!(A B C D);
job_fn!(A B C D E);
job_fn!(A B C D E G);
job_fn!(A B C D E G H);
job_fn!(A B C D E G H I);
job_fn!(A B C D E G H I K);
job_fn!(A B C D E G H I K L);
job_fn!(A B C D E G H I K L M);
job_fn!(A B C D E G H I K L M N);
