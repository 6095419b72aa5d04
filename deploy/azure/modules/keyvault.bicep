// The two secrets there are. Each reader may read each secret, and nothing else of the vault.
param location string
param vaultName string

@secure()
param apiKey string

@secure()
param callbackSecret string

@description('Principal ids of the identities that read the secrets.')
param readers array

var secretsUser = '4633458b-17de-408a-b874-0445c86b69e6'

resource vault 'Microsoft.KeyVault/vaults@2024-11-01' = {
  name: vaultName
  location: location
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    enablePurgeProtection: true
    softDeleteRetentionInDays: 30
  }
}

resource apiKeySecret 'Microsoft.KeyVault/vaults/secrets@2024-11-01' = {
  parent: vault
  name: 'api-key'
  properties: {
    value: apiKey
  }
}

resource callbackSecretSecret 'Microsoft.KeyVault/vaults/secrets@2024-11-01' = {
  parent: vault
  name: 'callback-secret'
  properties: {
    value: callbackSecret
  }
}

resource apiKeyReaders 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for reader in readers: {
  name: guid(apiKeySecret.id, reader, secretsUser)
  scope: apiKeySecret
  properties: {
    principalId: reader
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
  }
}]

resource callbackSecretReaders 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for reader in readers: {
  name: guid(callbackSecretSecret.id, reader, secretsUser)
  scope: callbackSecretSecret
  properties: {
    principalId: reader
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsUser)
  }
}]

output vaultName string = vault.name
