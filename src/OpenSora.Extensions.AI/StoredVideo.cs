using System.IO.Compression;
using System.Text;
using OpenSora.Generation;
using OpenSora.Media;

namespace OpenSora.Extensions.AI;

/// <summary>Converts videos to bytes for a cache, and back, without loss: a header, and the compressed pixels.</summary>
internal static class StoredVideo
{
    // A number that no other program begins its cache entries with.
    private const int Magic = 0x31_56_53_4F;

    /// <summary>Converts a video to bytes.</summary>
    public static byte[] Write(GeneratedVideo video)
    {
        using var stream = new MemoryStream();
        using (var writer = new BinaryWriter(stream, Encoding.UTF8, leaveOpen: true))
        {
            var frames = video.Frames;
            writer.Write(Magic);
            writer.Write(frames.Count);
            writer.Write(frames.Height);
            writer.Write(frames.Width);
            writer.Write(frames.FramesPerSecond);
            writer.Write(video.Prompt);
            writer.Write(video.NegativePrompt is not null);
            writer.Write(video.NegativePrompt ?? "");
            writer.Write(video.Seed);
            writer.Write(video.Steps);
            writer.Write(video.GuidanceScale);
            writer.Write(video.Sampler);
            writer.Write(video.Model);
            writer.Write(video.Backend);
            writer.Write(video.Elapsed.Ticks);
            writer.Write(video.Warnings.Count);
            foreach (var warning in video.Warnings)
            {
                writer.Write(warning);
            }
        }

        // The checksum at the end of a zlib stream detects damage.
        using (var compressed = new ZLibStream(stream, CompressionLevel.Fastest, leaveOpen: true))
        {
            compressed.Write(video.Frames.Pixels.Span);
        }

        return stream.ToArray();
    }

    /// <summary>Reads a video. Incomplete or damaged bytes are null, so that the video is generated and stored again.</summary>
    public static GeneratedVideo? Read(byte[] bytes, VideoWriter? videoWriter)
    {
        try
        {
            using var stream = new MemoryStream(bytes, writable: false);
            using var reader = new BinaryReader(stream, Encoding.UTF8, leaveOpen: true);
            if (reader.ReadInt32() != Magic)
            {
                return null;
            }

            var (count, height, width, rate) = (reader.ReadInt32(), reader.ReadInt32(), reader.ReadInt32(), reader.ReadDouble());
            var prompt = reader.ReadString();
            var (hasNegative, negative) = (reader.ReadBoolean(), reader.ReadString());
            var (seed, steps, scale) = (reader.ReadInt64(), reader.ReadInt32(), reader.ReadDouble());
            var (sampler, model, backend) = (reader.ReadString(), reader.ReadString(), reader.ReadString());
            var elapsed = TimeSpan.FromTicks(reader.ReadInt64());
            var warnings = new List<string>();
            for (var left = reader.ReadInt32(); left > 0; left--)
            {
                warnings.Add(reader.ReadString());
            }

            return new GeneratedVideo(new VideoFrames(Pixels(stream, (long)count * height * width * 3), count, height, width, rate), videoWriter)
            {
                Prompt = prompt,
                NegativePrompt = hasNegative ? negative : null,
                Seed = seed,
                Steps = steps,
                GuidanceScale = scale,
                Sampler = sampler,
                Model = model,
                Backend = backend,
                Elapsed = elapsed,
                Warnings = warnings,
            };
        }
        catch (Exception exception) when (exception is IOException or InvalidDataException or ArgumentException or FormatException)
        {
            return null;
        }
    }

    private static byte[] Pixels(Stream stream, long length)
    {
        // Deflate compresses at most 1032 times, so a damaged length does not allocate more than the stream can contain.
        if (length < 0 || length > Math.Min(Array.MaxLength, (stream.Length - stream.Position) * 1032))
        {
            throw new InvalidDataException("The size of the video does not match the number of bytes.");
        }

        var pixels = new byte[length];
        using var compressed = new ZLibStream(stream, CompressionMode.Decompress, leaveOpen: true);
        compressed.ReadExactly(pixels);
        return compressed.ReadByte() < 0 ? pixels : throw new InvalidDataException("There are more pixels than the video has.");
    }
}
