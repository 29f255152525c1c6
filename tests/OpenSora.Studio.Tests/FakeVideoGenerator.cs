using System.Collections.Concurrent;
using OpenSora.Generation;
using OpenSora.Media;
using OpenSora.ModelFolders;

namespace OpenSora.Studio.Tests;

/// <summary>Generates small gradients at once. The first word of a prompt changes what happens: 'hold' stops in the middle until
/// <see cref="Release"/>, 'break' fails with an internal error, and 'refuse' fails with a message for the user.</summary>
internal sealed class FakeVideoGenerator : IVideoGenerator
{
    private readonly TaskCompletionSource _released = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public ConcurrentQueue<VideoRequest> Requests { get; } = [];

    /// <summary>What loading the model waits for.</summary>
    public Task Loading { get; init; } = Task.CompletedTask;

    /// <summary>The prompts whose generation was started, in order.</summary>
    public IReadOnlyList<string> Prompts => [.. Requests.Select(request => request.Prompt)];

    public void Release() => _released.TrySetResult();

    public Task LoadAsync(IProgress<GenerationProgress>? progress = null, CancellationToken cancellationToken = default) =>
        Loading.WaitAsync(cancellationToken);

    public async Task<ModelDescription> DescribeAsync(CancellationToken cancellationToken = default)
    {
        await Loading.WaitAsync(cancellationToken);
        var part = new ModelPart { Architecture = "fake" };
        return new()
        {
            Name = "fake",
            Description = "Gradients.",
            Denoiser = part,
            Vae = part,
            TextEncoder = part,
            License = "MIT",
            Sampling = new() { Steps = 20, GuidanceScale = 4 },
            Video = new()
            {
                Frames = 16,
                Width = 256,
                Height = 192,
                FramesRange = new(1, 32),
                WidthRange = new(64, 512, 16),
                HeightRange = new(64, 512, 16),
            },
        };
    }

    public async Task<GeneratedVideo> GenerateAsync(
        VideoRequest request,
        IProgress<GenerationProgress>? progress = null,
        CancellationToken cancellationToken = default
    )
    {
        Requests.Enqueue(request);
        progress?.Report(new(GenerationStage.EncodingText, 1, 1));
        var steps = request.Steps ?? 20;
        for (var step = 0; step <= steps; step++)
        {
            cancellationToken.ThrowIfCancellationRequested();
            progress?.Report(new(GenerationStage.Denoising, step, steps) { Remaining = TimeSpan.FromSeconds(steps - step) });
            if (step != steps * 3 / 5)
            {
                continue;
            }

            switch (request.Prompt.Split(' ')[0])
            {
                case "hold":
                    await _released.Task.WaitAsync(cancellationToken);
                    break;
                case "break":
                    throw new InvalidOperationException("the secret path is /home/secret");
                case "refuse":
                    throw new ArgumentException("The prompt needs more memory than there is. Use fewer frames.", nameof(request));
            }
        }

        progress?.Report(new(GenerationStage.Decoding, 1, 1));
        var (frames, height, width) = (request.Frames ?? 16, request.Height ?? 192, request.Width ?? 256);
        return new GeneratedVideo(new VideoFrames(Pixels(frames, height, width, request.Prompt.Length), frames, height, width, 8))
        {
            Prompt = request.Prompt,
            Seed = request.Seed!.Value,
            Steps = steps,
            GuidanceScale = request.GuidanceScale ?? 4,
            Model = "fake",
            Backend = "cpu",
            Elapsed = TimeSpan.FromSeconds(1.5),
            Warnings = request.Prompt.Contains("giraf", StringComparison.Ordinal) ? ["The nearest names are 'giraffe'."] : [],
        };
    }

    // A disc that moves over a gradient.
    private static byte[] Pixels(int frames, int height, int width, int hue)
    {
        var pixels = new byte[frames * height * width * 3];
        var at = 0;
        for (var t = 0; t < frames; t++)
        {
            for (var y = 0; y < height; y++)
            {
                for (var x = 0; x < width; x++)
                {
                    var (dx, dy) = (x - (width * (t + 1) / (frames + 1)), y - (height / 2));
                    var disc = (dx * dx) + (dy * dy) < height * height / 16;
                    pixels[at++] = disc ? (byte)250 : (byte)(60 + (hue * 37 % 120) + (40 * y / height));
                    pixels[at++] = disc ? (byte)200 : (byte)(90 + (80 * x / width));
                    pixels[at++] = disc ? (byte)90 : (byte)(170 + (60 * y / height));
                }
            }
        }

        return pixels;
    }
}
