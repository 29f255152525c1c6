using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Weights;

namespace OpenSora.Cli;

/// <summary>The command <c>opensora models verify</c>.</summary>
internal static class ModelVerification
{
    private const int Sha256Length = 64;

    /// <summary>The result of one check.</summary>
    /// <param name="File">The file.</param>
    /// <param name="Check">What was checked: <c>hash</c> or <c>tensors</c>.</param>
    /// <param name="Problem">What is wrong; null if nothing is.</param>
    internal sealed record Result(string File, string Check, string? Problem);

    public static async Task<int> RunAsync(string path, Terminal terminal, CancellationToken cancellationToken)
    {
        // The folder of a downloaded part has a record of the download, but no model.json.
        var isPart = File.Exists(Path.Combine(path, ModelDownload.RecordName)) && !File.Exists(Path.Combine(path, ModelFolder.FileName));
        var model = isPart ? null : ModelFolder.Open(path);
        var folder = model?.Path ?? Path.GetFullPath(path);
        var record = DownloadRecord.Read(folder);
        var results = await terminal
            .WithProgressAsync(async stages =>
            {
                List<Result> all = [];
                foreach (var file in record?.Files ?? [])
                {
                    all.Add(new Result(file.Path, "hash", await CheckHashAsync(folder, file, stages, cancellationToken).ConfigureAwait(false)));
                }

                if (model is not null)
                {
                    all.AddRange(CheckParts(model, Architectures.BuiltIn));
                }

                return all;
            })
            .ConfigureAwait(false);
        var problems = results.Count(result => result.Problem is not null);
        if (terminal.IsJson)
        {
            terminal.WriteJson(
                new
                {
                    Folder = folder,
                    IsValid = problems == 0,
                    Checks = results,
                }
            );
        }
        else
        {
            foreach (var (file, check, problem) in results)
            {
                await terminal
                    .Output.WriteLineAsync(
                        problem is null ? $"{file}: {(check is "hash" ? "the hash is right" : "every tensor fits")}" : $"{file}: {problem}"
                    )
                    .ConfigureAwait(false);
            }

            if (record is null)
            {
                await terminal
                    .Output.WriteLineAsync($"The hashes are unknown, because the folder has no {ModelDownload.RecordName}.")
                    .ConfigureAwait(false);
            }
        }

        return problems == 0 ? CommandLine.Success : CommandLine.Failure;
    }

    private static async Task<string?> CheckHashAsync(string folder, DownloadedFile file, Stages stages, CancellationToken cancellationToken)
    {
        var path = Path.Combine([folder, .. file.Path.Split('/')]);
        if (!File.Exists(path))
        {
            return "the file is missing; 'opensora models download' restores it.";
        }

        var stream = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 20, useAsync: true);
        await using var disposed = stream.ConfigureAwait(false);
        if (file.Size is { } size && stream.Length != size)
        {
            return string.Create(CultureInfo.InvariantCulture, $"the file has {stream.Length} bytes; expected {size}.");
        }

        var isSha256 = file.Hash.Length == Sha256Length;
        using var hash = IncrementalHash.CreateHash(isSha256 ? HashAlgorithmName.SHA256 : HashAlgorithmName.SHA1);
        if (!isSha256) // of a git blob
        {
            hash.AppendData(Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"blob {stream.Length}\0")));
        }

        var buffer = new byte[1 << 20];
        while (await stream.ReadAsync(buffer, cancellationToken).ConfigureAwait(false) is var count and > 0)
        {
            hash.AppendData(buffer, 0, count);
            stages.Report($"Hash of {file.Path}", stream.Position, stream.Length, $"{Terminal.Bytes(stream.Position)}");
        }

        return string.Equals(Convert.ToHexStringLower(hash.GetHashAndReset()), file.Hash, StringComparison.OrdinalIgnoreCase)
            ? null
            : $"the contents do not have the hash {file.Hash}; delete the file, and download it again.";
    }

    private static IEnumerable<Result> CheckParts(ModelFolder model, Architectures architectures)
    {
        var description = model.Description;
        yield return Check(model, description.Denoiser, architectures.Transformers);
        yield return Check(model, description.Vae, architectures.Autoencoders);
        if (description.TextEncoder.Weights is not null)
        {
            yield return Check(model, description.TextEncoder, architectures.TextEncoders);
        }

        if (description.Preview is { } preview)
        {
            yield return Check(model, preview, architectures.Autoencoders);
        }
    }

    private static Result Check<TNetwork>(ModelFolder model, ModelPart part, IReadOnlyList<Architecture<TNetwork>> architectures)
        where TNetwork : class
    {
        var name = part.Weights ?? "";
        var architecture = architectures.FirstOrDefault(known => known.Name.Equals(part.Architecture, StringComparison.OrdinalIgnoreCase));
        if (architecture is null)
        {
            return new Result(name, "tensors", $"the architecture {part.Architecture} is not known, so the tensors cannot be checked.");
        }

        try
        {
            using var empty = System.Text.Json.JsonDocument.Parse("{}");
            var config = architecture.ReadConfig(part.Config.ValueKind == System.Text.Json.JsonValueKind.Undefined ? empty.RootElement : part.Config);
            using var file = WeightsFile.Open(Path.Combine(model.Path, name));
            var report = architecture.Compare(config, file);
            return new Result(name, "tensors", report.IsComplete ? null : $"the tensors do not fit {part.Architecture}. {report}");
        }
        catch (Exception exception) when (exception is InvalidWeightsException or System.Text.Json.JsonException or ArgumentException)
        {
            return new Result(name, "tensors", exception.Message);
        }
    }
}
