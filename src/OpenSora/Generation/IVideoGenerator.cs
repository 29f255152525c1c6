using System.Runtime.CompilerServices;
using OpenSora.Media;
using OpenSora.ModelFolders;

namespace OpenSora.Generation;

/// <summary>Generates videos from text. Applications can depend on this interface and mock it in tests; <see cref="VideoGenerator"/> implements
/// it.</summary>
/// <remarks>The interface follows the ones of Microsoft.Extensions.AI, so that generators can be wrapped in each other: by logging, caching and
/// telemetry (package OpenSora.Lib.Extensions.AI), or by code of the application. <see cref="GetService"/> and
/// <see cref="IDisposable.Dispose"/> have default implementations.</remarks>
public interface IVideoGenerator : IDisposable
{
    /// <summary>Loads the model now instead of with the first request.</summary>
    /// <param name="progress">Receives the progress of <see cref="GenerationStage.Loading"/>.</param>
    /// <param name="cancellationToken">Checked between the model's parts. After cancellation, the next request loads the model again.</param>
    Task LoadAsync(IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default);

    /// <summary>Gets the description of the model, loading the model if it is not loaded yet.</summary>
    /// <param name="cancellationToken">Checked while the model is loaded.</param>
    Task<ModelDescription> DescribeAsync(CancellationToken cancellationToken = default);

    /// <summary>Generates a video.</summary>
    /// <param name="request">The request. It is copied, so later changes to it have no effect.</param>
    /// <param name="progress">Receives every stage and step, on the thread that runs the computation.</param>
    /// <param name="cancellationToken">Checked between stages and steps.</param>
    /// <exception cref="ArgumentException">The model does not support the request; the message lists all problems.</exception>
    /// <exception cref="OperationCanceledException">The operation was canceled. The generator remains usable.</exception>
    Task<GeneratedVideo> GenerateAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    );

    /// <summary>Generates a video, and returns its frames in pieces as soon as they are ready. By default, the whole video is one piece.</summary>
    /// <param name="request">The request. It is copied, so later changes to it have no effect.</param>
    /// <param name="progress">Receives every stage and step, on the thread that runs the computation.</param>
    /// <param name="cancellationToken">Cancels the generation. To stop enumerating cancels it too.</param>
    /// <returns>The frames in order: videos of one or more frames, which together are the whole video.</returns>
    /// <exception cref="ArgumentException">The model does not support the request; the message lists all problems.</exception>
    /// <exception cref="OperationCanceledException">The operation was canceled. The generator remains usable.</exception>
    async IAsyncEnumerable<VideoFrames> GenerateStreamingAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default
    )
    {
        yield return (await GenerateAsync(request, progress, cancellationToken).ConfigureAwait(false)).Frames;
    }

    /// <summary>Gets an object of a type from the generator or from a generator that it wraps: the generator itself, or something that describes
    /// it, such as its <see cref="ModelDescription"/>.</summary>
    /// <param name="serviceType">The type of the object.</param>
    /// <param name="serviceKey">A key that identifies the object among others of its type; null for the only one.</param>
    /// <returns>The object; null if there is none. By default, a generator returns itself if it has the type.</returns>
    object? GetService(Type serviceType, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(serviceType);
        return serviceKey is null && serviceType.IsInstanceOfType(this) ? this : null;
    }

    /// <summary>Releases what the generator holds. By default, nothing.</summary>
    void IDisposable.Dispose() { }
}

/// <summary>Extension methods that build requests fluently.</summary>
public static class VideoGeneratorExtensions
{
    /// <summary>Creates a builder for a request, as in <c>generator.Request("a goat").Frames(16).Seed(42).GenerateAsync()</c>.</summary>
    /// <param name="generator">The generator.</param>
    /// <param name="prompt">The description of the video; empty to generate without a prompt.</param>
    public static VideoRequestBuilder Request(this IVideoGenerator generator, string prompt)
    {
        ArgumentNullException.ThrowIfNull(generator);
        return new VideoRequestBuilder(generator, prompt);
    }

    /// <summary>Generates a video of a prompt.</summary>
    /// <param name="generator">The generator.</param>
    /// <param name="prompt">The description of the video; empty to generate without a prompt.</param>
    /// <param name="settings">The settings; null values, and null, mean the defaults of the generator.</param>
    /// <param name="progress">Receives every stage and step.</param>
    /// <param name="cancellationToken">Checked between stages and steps.</param>
    /// <exception cref="ArgumentException">The model does not support the settings; the message lists all problems.</exception>
    public static Task<GeneratedVideo> GenerateAsync(
        this IVideoGenerator generator,
        string prompt,
        GenerationSettings? settings = null,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(generator);
        ArgumentNullException.ThrowIfNull(prompt);
        var request = new VideoRequest { Prompt = prompt };
        return generator.GenerateAsync(settings is null ? request : request.WithDefaults(settings), progress, cancellationToken);
    }

    /// <summary>Gets an object of a type from the generator or from a generator that it wraps; see
    /// <see cref="IVideoGenerator.GetService"/>.</summary>
    /// <typeparam name="T">The type of the object.</typeparam>
    /// <param name="generator">The generator.</param>
    /// <param name="serviceKey">A key that identifies the object among others of its type; null for the only one.</param>
    /// <returns>The object; null if there is none.</returns>
    public static T? GetService<T>(this IVideoGenerator generator, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(generator);
        return generator.GetService(typeof(T), serviceKey) is T service ? service : default;
    }

    /// <summary>Generates several videos of one request, one after another. Their seeds are consecutive.</summary>
    /// <param name="generator">The generator.</param>
    /// <param name="request">The request. Its seed, or a random one, is that of the first video.</param>
    /// <param name="count">The number of videos.</param>
    /// <param name="progress">Receives every stage and step of each video.</param>
    /// <param name="cancellationToken">Checked between stages and steps.</param>
    /// <returns>The videos, each as soon as it is complete.</returns>
    /// <exception cref="ArgumentException">The model does not support the request; the message lists all problems.</exception>
    public static async IAsyncEnumerable<GeneratedVideo> GenerateManyAsync(
        this IVideoGenerator generator,
        VideoRequest request,
        int count,
        IProgress<GenerationProgress>? progress = null,
        [EnumeratorCancellation] CancellationToken cancellationToken = default
    )
    {
        ArgumentNullException.ThrowIfNull(generator);
        ArgumentNullException.ThrowIfNull(request);
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        var copy = request.Clone();
        var seed = copy.Seed ?? Random.Shared.NextInt64(uint.MaxValue);
        for (var i = 0; i < count; i++)
        {
            copy.Seed = unchecked(seed + i);
            yield return await generator.GenerateAsync(copy, progress, cancellationToken).ConfigureAwait(false);
        }
    }
}
