using System.Security.Cryptography;
using System.Text;

namespace OpenSora.Generation;

/// <summary>Computes the hash of a request (<see cref="VideoRequest.ComputeHash"/>).</summary>
internal static class RequestHash
{
    /// <summary>Hashes all properties of a request. Every value is preceded by its presence or length, so that different requests are different
    /// sequences of bytes.</summary>
    /// <param name="request">The request.</param>
    public static string Of(VideoRequest request)
    {
        using var hash = SHA256.Create();
        using (var stream = new CryptoStream(Stream.Null, hash, CryptoStreamMode.Write))
        using (var writer = new BinaryWriter(stream, Encoding.UTF8))
        {
            writer.Write(request.Prompt);
            writer.Write(request.NegativePrompt is not null);
            writer.Write(request.NegativePrompt ?? "");
            Whole(request.Frames);
            Whole(request.Width);
            Whole(request.Height);
            Whole(request.Steps);
            Number(request.GuidanceScale);
            Number(request.FramesPerSecond);
            Whole(request.Seed);
            writer.Write(request.MaskStrategies.Count);
            foreach (var strategy in request.MaskStrategies)
            {
                writer.Write(strategy.ToString());
            }

            writer.Write(request.References.Count);
            foreach (var frames in request.References)
            {
                writer.Write(frames.Count);
                writer.Write(frames.Height);
                writer.Write(frames.Width);
                writer.Write(frames.Pixels.Span);
            }

            void Whole(long? value)
            {
                writer.Write(value.HasValue);
                writer.Write(value ?? 0);
            }

            void Number(double? value)
            {
                writer.Write(value.HasValue);
                writer.Write(value ?? 0);
            }
        }

        return Convert.ToHexStringLower(hash.Hash!);
    }
}
