using OpenSora.Preparation.Captions;

namespace OpenSora.Preparation.Tests.Captions;

/// <summary>Clips for the tests of captions.</summary>
internal static class Clips
{
    /// <summary>Makes a clip of one color, or of several in equal parts, of 1 second.</summary>
    public static async Task<ClipToCaption> MakeAsync(string path, params string[] colors)
    {
        colors = colors.Length == 0 ? ["red"] : colors;
        List<string> arguments = [];
        foreach (var color in colors)
        {
            arguments.AddRange([
                "-f",
                "lavfi",
                "-i",
                FormattableString.Invariant($"color={color}:size=64x48:rate=10:duration={1.0 / colors.Length:F2}"),
            ]);
        }

        await Videos.MakeAsync([
            .. arguments,
            "-filter_complex",
            FormattableString.Invariant($"concat=n={colors.Length}"),
            "-pix_fmt",
            "yuv420p",
            path,
        ]);
        return await ClipToCaption.ReadAsync(path);
    }

    /// <summary>Options that wait only briefly.</summary>
    public static ChatCaptionerOptions Quick(int retries = 2) =>
        new()
        {
            MaxRetries = retries,
            RetryDelay = TimeSpan.FromMilliseconds(10),
            RequestTimeout = TimeSpan.FromSeconds(20),
        };
}

/// <summary>A clip that all tests of a class use.</summary>
public sealed class ClipFixture : IAsyncLifetime
{
    internal TemporaryFolder Folder { get; } = new();

    internal ClipToCaption Clip { get; private set; } = null!;

    public async ValueTask InitializeAsync() => Clip = await Clips.MakeAsync(Folder["clip.mp4"], "red", "lime", "blue");

    public ValueTask DisposeAsync()
    {
        Folder.Dispose();
        return ValueTask.CompletedTask;
    }
}
