using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;

namespace OpenSora.Extensions.AI;

/// <summary>A generator that passes all calls on to another one. Derived classes override the methods that they add something to.</summary>
public class DelegatingVideoGenerator : IVideoGenerator
{
    /// <summary>Initializes a generator around another one.</summary>
    /// <param name="innerGenerator">The generator to pass calls on to.</param>
    protected DelegatingVideoGenerator(IVideoGenerator innerGenerator)
    {
        ArgumentNullException.ThrowIfNull(innerGenerator);
        InnerGenerator = innerGenerator;
    }

    /// <summary>Gets the generator that calls are passed on to.</summary>
    protected IVideoGenerator InnerGenerator { get; }

    /// <inheritdoc/>
    public virtual Task LoadAsync(IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        InnerGenerator.LoadAsync(progress, cancellationToken);

    /// <inheritdoc/>
    public virtual Task<ModelDescription> DescribeAsync(CancellationToken cancellationToken = default) =>
        InnerGenerator.DescribeAsync(cancellationToken);

    /// <inheritdoc/>
    public virtual Task<GeneratedVideo> GenerateAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    ) => InnerGenerator.GenerateAsync(request, progress, cancellationToken);

    /// <inheritdoc/>
    public virtual IAsyncEnumerable<VideoFrames> GenerateStreamingAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    ) => InnerGenerator.GenerateStreamingAsync(request, progress, cancellationToken);

    /// <summary>Gets an object of a type: this generator if it has the type and there is no key, and otherwise what the inner generator
    /// returns.</summary>
    /// <param name="serviceType">The type of the object.</param>
    /// <param name="serviceKey">A key that identifies the object among others of its type; null for the only one.</param>
    /// <returns>The object; null if there is none.</returns>
    public virtual object? GetService(Type serviceType, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(serviceType);
        return serviceKey is null && serviceType.IsInstanceOfType(this) ? this : InnerGenerator.GetService(serviceType, serviceKey);
    }

    /// <summary>Disposes of this generator and the inner one.</summary>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Releases the resources of the generator.</summary>
    /// <param name="disposing">True if called from <see cref="Dispose()"/>.</param>
    protected virtual void Dispose(bool disposing)
    {
        if (disposing)
        {
            InnerGenerator.Dispose();
        }
    }
}
