namespace OpenSora.Runtime;

/// <summary>Runs computations that take seconds to minutes.</summary>
/// <remarks>On thread-pool threads, as many computations as the machine has cores would leave no thread for the rest of an application, such as its
/// web requests, until the pool grows.</remarks>
internal static class LongRunning
{
    /// <summary>Runs a computation on a thread of its own.</summary>
    public static Task<T> RunAsync<T>(Func<T> compute, CancellationToken cancellationToken) =>
        Task.Factory.StartNew(
            compute,
            cancellationToken,
            TaskCreationOptions.LongRunning | TaskCreationOptions.DenyChildAttach,
            TaskScheduler.Default
        );
}
