using System.Text.Json;

namespace OpenSora.ModelFolders;

/// <summary>Reads the list of the files of a repository.</summary>
internal static class HubListing
{
    /// <summary>Reads the commit and the file names from the hub's response, and validates them.</summary>
    /// <param name="repository">The name of the repository, for error messages.</param>
    /// <param name="json">The hub's response.</param>
    /// <exception cref="ModelHubException">The response is not valid, or a file name is not safe to use.</exception>
    public static (string Commit, IReadOnlyList<string> Files) Parse(string repository, byte[] json)
    {
        try
        {
            using var document = JsonDocument.Parse(json);
            var commit = document.RootElement.GetProperty("sha").GetString() ?? "";
            var files = document
                .RootElement.GetProperty("siblings")
                .EnumerateArray()
                .Select(file => file.GetProperty("rfilename").GetString() ?? "")
                .ToList();
            if (!HubNames.IsCommit(commit))
            {
                throw new ModelHubException(
                    $"The hub says that the commit of '{repository}' is '{HubClient.Shortened(commit)}'; expected 40 hexadecimal digits."
                );
            }

            return files.Find(file => !HubNames.IsPath(file)) is { } bad
                ? throw new ModelHubException(
                    $"The hub lists the file '{HubClient.Shortened(bad)}' in '{repository}', "
                        + "whose name leads out of the folder or cannot be used on every system; nothing was downloaded."
                )
                : (commit, files);
        }
        catch (Exception exception) when (exception is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            throw new ModelHubException(
                $"The hub's list of the files of '{repository}' cannot be read: {exception.Message} Is the endpoint a hub?",
                innerException: exception
            );
        }
    }
}
