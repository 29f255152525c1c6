using OpenSora.Extensions.AI;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;

namespace OpenSora.Tests.ExtensionsAI;

/// <summary>A generator without a model: its pixels depend on the request only.</summary>
internal sealed class FakeGenerator(Func<VideoRequest, Exception?>? fail = null) : IVideoGenerator
{
    public List<VideoRequest> Requests { get; } = [];

    public int Loads { get; private set; }

    public int Disposals { get; private set; }

    public Task LoadAsync(IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        Loads++;
        return Task.CompletedTask;
    }

    public Task<ModelDescription> DescribeAsync(CancellationToken cancellationToken = default) => throw new NotSupportedException();

    public Task<GeneratedVideo> GenerateAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        cancellationToken.ThrowIfCancellationRequested();
        Requests.Add(request.Clone());
        if (fail?.Invoke(request) is { } exception)
        {
            return Task.FromException<GeneratedVideo>(exception);
        }

        var (frames, height, width) = (request.Frames ?? 4, request.Height ?? 4, request.Width ?? 6);
        var pixels = new byte[frames * height * width * 3];
        new Random((int)(request.Seed ?? 1)).NextBytes(pixels);
        return Task.FromResult(
            new GeneratedVideo(new VideoFrames(pixels, frames, height, width, request.FramesPerSecond ?? 8))
            {
                Prompt = request.Prompt,
                NegativePrompt = request.NegativePrompt,
                Seed = request.Seed ?? 1,
                Steps = request.Steps ?? 5,
                GuidanceScale = 2.5,
                Sampler = "Fake",
                Model = "fake",
                Backend = "none",
                Elapsed = TimeSpan.FromSeconds(3),
                Warnings = ["first", "second"],
            }
        );
    }

    public object? GetService(Type serviceType, object? serviceKey = null) =>
        serviceKey is string key ? $"keyed {key}"
        : serviceType == typeof(Version) ? new Version(1, 2)
        : serviceType.IsInstanceOfType(this) ? this
        : null;

    public void Dispose() => Disposals++;
}

/// <summary>Notes when a request passes, on the way in and out.</summary>
internal sealed class Noting(IVideoGenerator inner, string name, List<string> notes) : DelegatingVideoGenerator(inner)
{
    public override async Task<GeneratedVideo> GenerateAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        notes.Add($"{name} in");
        var video = await base.GenerateAsync(request, progress, cancellationToken);
        notes.Add($"{name} out");
        return video;
    }
}
